"""The law of a scaling study as its result keeps it: every form with its record, and what they
say of the audit run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.laws.choice import Candidate, Predictor, choose
from windtunnel.laws.fit import fit_as_the_paper
from windtunnel.laws.optimum import closed_form, exponents, outside
from windtunnel.laws.points import COUNTS, LossPoints, points_of


def fitted(
    rows: Sequence[Mapping[str, Any]], seed_sd: float | None, audit: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Numbers for `result.json`: {forms, audit, paper, refused}. `paper` is the paper's own way,
    for comparison; `refused` says why a table is too small for a law. `rows` of the study's
    table; `audit`: the counts, tokens and loss of the audit run, which no fit sees.
    """
    try:
        predictor = choose(points_of(rows), seed_sd)
    except ValueError as error:
        return {"forms": [], "audit": None, "paper": None, "refused": str(error)}
    return {
        "forms": [_form(predictor, candidate) for candidate in predictor.candidates],
        "audit": _audited(predictor, audit) if audit else None,
        "paper": _as_the_paper(predictor.points, audit),
        "refused": None,
    }


def _form(predictor: Predictor, candidate: Candidate) -> dict[str, Any]:
    return {
        "form": candidate.form,
        "count": candidate.count,
        **candidate.law.as_dict(),
        "weight": candidate.weight,
        "extrapolation_error": candidate.score if candidate.record else None,
        "inflation": candidate.inflation,
        "growth": {axis: candidate.growth(axis) for axis in ("params", "tokens")},
        "misfit": candidate.misfit,
        "noise_sd": candidate.noise.sd,
        "converged": candidate.fit.converged,
        "optimisers_differ": candidate.fit.disagreement,
        "intervals": {
            profile.name: {
                "value": profile.value,
                "interval90": [profile.low, profile.high],
                "identified": profile.identified,
            }
            for profile in predictor.profiles(candidate)
        },
        "record": [
            {
                "axis": tried.cut.axis,
                "fitted_to": tried.cut.at,
                "error": tried.error,
                "bias": tried.bias,
            }
            for tried in candidate.record
        ],
    }


def _audited(predictor: Predictor, audit: Mapping[str, Any]) -> dict[str, Any]:
    params = {count: float(audit[count]) for count in COUNTS}
    said, got = predictor.predict(params, float(audit["tokens"])), audit["loss"]
    return {
        "predicted": said.loss,
        "interval50": list(said.interval50),
        "interval90": list(said.interval90),
        "error": got and said.loss / got - 1,
        "inside90": got and said.interval90[0] <= got <= said.interval90[1],
    }


def _as_the_paper(points: LossPoints, audit: Mapping[str, Any] | None) -> dict[str, Any]:
    """The additive law by `curve_fit`, N without embeddings, C = 6ND, and N_opt/D_opt = K^2
    (C/6)^eta of it (Eq. 3); the ratio at the FLOPs of the audit run, or else of the dearest
    point. Where it finds no law, why.
    """
    n, d = (
        (float(audit["params"]), float(audit["tokens"]))
        if audit
        else (points.size.max(), points.tokens.max())
    )
    try:
        law, errors = fit_as_the_paper(points.size, points.tokens, points.loss)
        k2, eta = exponents(law)
    except ValueError as error:
        return {"refused": str(error)}
    ratio, sampled = closed_form(law, 6 * n * d).ratio, points.tokens / points.size
    got = audit["loss"] if audit else None
    return {
        **law.as_dict(),
        "standard_errors": dict(zip(law.as_dict(), map(float, errors), strict=False)),
        "K2": k2,
        "eta": eta,
        "flops": 6 * n * d,
        "tokens_per_param": ratio,
        "warning": outside(ratio, (float(sampled.min()), float(sampled.max()))),
        "audit_error": float(law.at(n, d)) / got - 1 if got else None,
        "refused": None,
    }
