"""The law of a scaling study as its result keeps it: every form with its record, and what they
say of the audit run.
"""

from collections.abc import Sequence
from dataclasses import asdict

from windtunnel.laws.as_the_paper import fit_as_the_paper
from windtunnel.laws.choice import Candidate, Predictor, Tried, choose
from windtunnel.laws.copying import yet_to_save
from windtunnel.laws.error import relative_error
from windtunnel.laws.intervals import Profile
from windtunnel.laws.optimum import closed_form, exponents, outside
from windtunnel.laws.points import COUNTS, LossPoints, points_of
from windtunnel.laws.witness import AGREE, disagreement
from windtunnel.results.scaling import (
    AuditForecast,
    AuditRun,
    Copying,
    Extrapolation,
    FormFound,
    Growth,
    LawInterval,
    PaperLaw,
    PaperRefusal,
    ScalingRow,
    StudyLaw,
)

# What `curve_fit` fits, in its order.
_FITTED = ("E", "A", "alpha", "B", "beta")


def law_of(
    rows: Sequence[ScalingRow],
    seed_sd: float | None,
    audit: AuditRun | None,
    copying: Copying | None = None,
) -> StudyLaw:
    """The law that the branches among a study's rows tell; `refused` says why a table is too small
    for one. No fit sees the audit run.

    `seed_sd`: standard deviation of the loss from seed to seed, nats/token, where it is known.
    """
    unlearnt = yet_to_save(copying.saved, copying.copyable) if copying else 0.0
    try:
        points = points_of([row.model_dump() for row in rows])
        predictor = choose(points, seed_sd, unlearnt=unlearnt)
    except ValueError as error:
        return StudyLaw(refused=str(error))
    return StudyLaw(
        forms=tuple(_form(predictor, candidate) for candidate in predictor.candidates),
        audit=_forecast(predictor, audit) if audit else None,
        paper=_as_the_paper(predictor.points, audit),
        growth=Growth(**asdict(predictor.growth)),
    )


def _form(predictor: Predictor, candidate: Candidate) -> FormFound:
    profiles = predictor.profiles(candidate)
    differ = disagreement(candidate.fit)
    return FormFound(
        form=candidate.form,
        count=candidate.count,
        **candidate.law.as_dict(),
        weight=candidate.weight,
        extrapolation_error=candidate.score if candidate.record else None,
        inflation=candidate.inflation,
        misfit=candidate.misfit,
        noise_sd=candidate.noise.sd,
        converged=differ <= AGREE,
        optimisers_differ=differ,
        intervals={profile.name: _interval(profile) for profile in profiles},
        record=tuple(_extrapolation(tried) for tried in candidate.record),
    )


def _interval(profile: Profile) -> LawInterval:
    return LawInterval(
        value=profile.value,
        interval90=(profile.low, profile.high),
        identified=profile.identified,
    )


def _extrapolation(tried: Tried) -> Extrapolation:
    return Extrapolation(
        axis=tried.cut.axis,
        fitted_to=tried.cut.at,
        error=tried.error,
        bias=tried.bias,
    )


def _forecast(predictor: Predictor, audit: AuditRun) -> AuditForecast:
    params = {count: float(getattr(audit, count)) for count in COUNTS}
    said = predictor.predict(params, float(audit.tokens))
    low, high = said.interval90
    got = audit.loss
    return AuditForecast(
        predicted=said.loss,
        interval50=said.interval50,
        interval90=said.interval90,
        error=None if got is None else relative_error(said.loss, got),
        inside90=None if got is None else low <= got <= high,
    )


def _as_the_paper(points: LossPoints, audit: AuditRun | None) -> PaperLaw | PaperRefusal:
    """The additive law by `curve_fit`, N without embeddings, C = 6 N D, and N_opt/D_opt = K^2
    (C/6)^eta of it (Eq. 3); the ratio at the FLOPs of the audit run, or else of the dearest
    point.
    """
    # C = 6 N D, in whose terms the paper's K and eta are
    n, d = points.size.max(), points.tokens.max()
    if audit:
        n, d = float(audit.params), float(audit.tokens)
    try:
        law, errors = fit_as_the_paper(points.size, points.tokens, points.loss)
        k2, eta = exponents(law)
    except ValueError as error:
        return PaperRefusal(refused=str(error))
    ratio = closed_form(law, 6 * n * d).ratio
    sampled = points.tokens / points.size
    got = audit.loss if audit else None
    return PaperLaw(
        **law.as_dict(),
        standard_errors=dict(zip(_FITTED, map(float, errors), strict=True)),
        K2=k2,
        eta=eta,
        flops=6 * n * d,
        tokens_per_param=ratio,
        warning=outside(ratio, (float(sampled.min()), float(sampled.max()))),
        audit_error=relative_error(float(law.at(n, d)), got) if got else None,
        refused=None,
    )
