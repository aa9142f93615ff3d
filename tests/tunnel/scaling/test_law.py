"""What a scaling study says of its law."""

import json

import numpy as np
import pytest
from tables import of_a_maximum

from windtunnel.laws.as_the_paper import fit_as_the_paper
from windtunnel.laws.loss import LossLaw
from windtunnel.results.scaling import AuditRun, Beyond, PaperLaw, ScalingRow, StudyLaw
from windtunnel.tunnel.scaling.law import law_of

LAW = LossLaw.of(E=2.4, A=30.0, alpha=0.3, B=300.0, beta=0.4)


def branch(n: float, d: float, loss: float) -> ScalingRow:
    """A row: N is counted without embeddings."""
    return ScalingRow(
        params=round(n),
        params_with_head=round(n) + 10_000,
        params_total=round(n) + 10_000,
        tokens=round(d),
        flops=round(6 * n * d),
        loss=loss,
        source="all",
        kind="branch",
        stem=f"s{n}",
        seed=0,
        width=1,
        depth=1,
        batch=512,
        lr=0.01,
    )


def table(sizes: int = 5) -> list[ScalingRow]:
    """Points on LAW."""
    return [
        branch(n, d, float(LAW.at(round(n), round(d))))
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


def test_a_law_that_no_float_holds_is_told_by_logarithms() -> None:
    said = law_of(
        [branch(*map(float, row)) for row in zip(*of_a_maximum(), strict=True)], None, None
    )
    forms = {form.form: form for form in said.forms if form.count == "params"}
    coupled, additive = forms["coupled+floor"], forms["additive"]
    assert coupled.c == pytest.approx(0.02)
    assert coupled.B is None and coupled.log_B is not None and 700 < coupled.log_B < 1000
    assert additive.B and additive.log_B == pytest.approx(np.log(additive.B))
    assert StudyLaw.parse(said.to_json(), "as its file holds it") == said


def test_a_law_that_told_a_and_b_alone_is_read() -> None:
    said = law_of(table(), None, None)
    content = json.loads(said.to_json())
    for form in content["forms"]:
        del form["log_A"], form["log_B"]
    read = StudyLaw.parse(json.dumps(content), "an old result").forms[0]
    assert (read.A, read.B) == (said.forms[0].A, said.forms[0].B) and read.A is not None
    assert (read.log_A, read.log_B) == (None, None)


def test_the_papers_standard_errors_are_named() -> None:
    noisy = [
        row.model_copy(update={"loss": row.loss * (1 + 0.001 * (-1) ** i)})
        for i, row in enumerate(table())
    ]
    paper = law_of(noisy, None, None).paper
    assert isinstance(paper, PaperLaw)
    assert list(paper.standard_errors) == ["E", "A", "alpha", "B", "beta"]
    _, errors = fit_as_the_paper(*np.array([(row.params, row.tokens, row.loss) for row in noisy]).T)
    assert list(paper.standard_errors.values()) == errors.tolist()
