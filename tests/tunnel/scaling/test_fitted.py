"""What a scaling study says of its law."""

from typing import Any

import numpy as np
import pytest

from windtunnel.laws.loss import LossLaw
from windtunnel.tunnel.scaling.fitted import fitted

LAW = LossLaw(E=2.4, A=30.0, alpha=0.3, B=300.0, beta=0.4)


def table(sizes: int = 5) -> list[dict[str, Any]]:
    return [
        {
            "params": n,
            "params_with_head": n + 1e4,
            "params_total": n + 1e4,
            "tokens": d,
            "flops": 6 * n * d,
            "loss": float(LAW.at(n, d)),
            "source": "all",
            "kind": "branch",
            "stem": f"s{n}",
            "seed": 0,
        }
        for n in np.geomspace(3e4, 6e5, sizes)
        for d in np.geomspace(3e5, 3e6, 6)
    ]


def test_the_audit_run_is_predicted_and_not_fitted() -> None:
    audit = {"params": 3e6, "params_with_head": 3.01e6, "params_total": 3.01e6, "tokens": 6e6}
    true = float(LAW.at(3e6, 6e6))
    right, wrong = (fitted(table(), 0.005, audit | {"loss": loss}) for loss in (true, true + 0.5))
    assert (
        right["audit"]["predicted"] == wrong["audit"]["predicted"] == pytest.approx(true, rel=0.005)
    )
    assert right["audit"]["inside90"] is True and wrong["audit"]["inside90"] is False
    assert right["audit"]["error"] == pytest.approx(0, abs=0.005)
    best = max(right["forms"], key=lambda form: form["weight"])
    assert best["form"] == "additive" and best["converged"]
    assert best["intervals"]["c alpha"]["value"] == pytest.approx(best["alpha"])
    paper = right["paper"]
    assert [paper[key] for key in ("E", "alpha", "beta")] == pytest.approx(
        [2.4, 0.3, 0.4], rel=1e-3
    )
    assert paper["eta"] == pytest.approx((0.4 - 0.3) / 0.7, rel=1e-2)
    assert paper["tokens_per_param"] == pytest.approx(
        1 / (paper["K2"] * (paper["flops"] / 6) ** paper["eta"])
    )


def test_a_run_that_diverged_has_no_error() -> None:
    audit = {
        "params": 3e6,
        "params_with_head": 3.01e6,
        "params_total": 3.01e6,
        "tokens": 6e6,
        "loss": None,
    }
    said = fitted(table(), None, audit)["audit"]
    assert said["error"] is None and said["inside90"] is None and said["predicted"] > 2.4


def test_a_table_that_is_too_small_says_why() -> None:
    said = fitted(table(2), None, None)
    assert said["forms"] == [] and said["audit"] is None
    assert "2 sizes: how the loss falls with size needs 3" in said["refused"]
