"""What a scaling study says of its law."""

import numpy as np
import pytest

from windtunnel.laws.loss import LossLaw
from windtunnel.results.scaling import AuditRun, Beyond, PaperLaw, ScalingRow
from windtunnel.tunnel.scaling.law import law_of

LAW = LossLaw(E=2.4, A=30.0, alpha=0.3, B=300.0, beta=0.4)


def table(sizes: int = 5) -> list[ScalingRow]:
    """Points on LAW, N counted without embeddings."""
    return [
        ScalingRow(
            params=round(n),
            params_with_head=round(n) + 10_000,
            params_total=round(n) + 10_000,
            tokens=round(d),
            flops=round(6 * n * d),
            loss=float(LAW.at(round(n), round(d))),
            source="all",
            kind="branch",
            stem=f"s{n}",
            seed=0,
            width=1,
            depth=1,
            batch=512,
            lr=0.01,
        )
        for n in np.geomspace(3e4, 6e5, sizes)
        for d in np.geomspace(3e5, 3e6, 6)
    ]


def audit(loss: float | None) -> AuditRun:
    return AuditRun(
        run="audited",
        params=3_000_000,
        params_with_head=3_010_000,
        params_total=3_010_000,
        tokens=6_000_000,
        batch=512,
        flops=10**14,
        core_minutes=1.0,
        beyond=Beyond(params=5, params_with_head=5, params_total=5, tokens=2),
        loss=loss,
    )


def test_the_audit_run_is_predicted_and_not_fitted() -> None:
    true = float(LAW.at(3e6, 6e6))
    right, wrong = (law_of(table(), 0.005, audit(loss)) for loss in (true, true + 0.5))
    assert right.audit and wrong.audit
    assert right.audit.predicted == wrong.audit.predicted == pytest.approx(true, rel=0.005)
    assert right.audit.inside90 is True and wrong.audit.inside90 is False
    assert right.audit.error == pytest.approx(0, abs=0.005)
    additive = next(form for form in right.forms if form.form == "additive")
    weight = sum(form.weight for form in right.forms if form.form == "additive")
    assert weight > 0.1 and additive.converged, "one of four forms that hold the truth"
    assert additive.intervals["c alpha"].value == pytest.approx(additive.alpha)
    assert right.growth and right.growth.noise >= 0.005 / 5
    paper = right.paper
    assert isinstance(paper, PaperLaw)
    assert (paper.E, paper.alpha, paper.beta) == pytest.approx((2.4, 0.3, 0.4), rel=1e-3)
    assert paper.eta == pytest.approx((0.4 - 0.3) / 0.7, rel=1e-2)
    assert paper.audit_error == pytest.approx(0, abs=0.005)
    other = wrong.paper
    assert isinstance(other, PaperLaw)
    assert other.audit_error == pytest.approx(true / (true + 0.5) - 1, abs=0.005)
    ratio = 1 / (paper.K2 * (paper.flops / 6) ** paper.eta)
    assert paper.tokens_per_param == pytest.approx(ratio)


def test_a_run_that_diverged_has_no_error() -> None:
    said = law_of(table(), None, audit(None)).audit
    assert said and said.error is None and said.inside90 is None and said.predicted > 2.4


def test_a_table_that_is_too_small_says_why() -> None:
    said = law_of(table(2), None, None)
    assert said.forms == () and said.audit is None and said.paper is None
    assert said.refused and "2 sizes: how the loss falls with size needs 3" in said.refused
