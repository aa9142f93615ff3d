"""The numbers of a scaling study as large as people make them, for the tests of what is shown."""

from windtunnel.results.scaling import (
    AuditForecast,
    AuditRun,
    BatchAlong,
    Beyond,
    FormFound,
    LawInterval,
    PaperLaw,
    ScalingNumbers,
    Segment,
    SizeLosses,
    StudyCost,
    StudyLaw,
)
from windtunnel.results.study import StudyResult

FORMS = ("interacting", "additive", "coupled+interacting", "coupled+floor", "coupled")


def study_of(sizes: int = 5, refused: str | None = None) -> StudyResult[ScalingNumbers]:
    """With its audit run, and every form by two counts of N; `refused`: with no law instead."""
    losses = [_size(number) for number in range(sizes)]
    numbers = ScalingNumbers(
        corpus="mine",
        lengths=(240_000, 480_000, 1_920_000),
        decay=0.1,
        shape="exponential",
        floor=0.1,
        batch=BatchAlong(
            origin="the lab's batch study",
            c=1.0,
            p=0.5,
            segments=(Segment(begin=0, end=1_920_000, batch=2048),),
        ),
        cost=StudyCost(
            flops=3 * 10**11,
            flops_cosine=7 * 10**11,
            ratio=0.4471,
            tokens=10**6,
            tokens_cosine=10**7,
            core_minutes=12.3,
        ),
        sizes=tuple(losses),
        span=9.0,
        fewest_steps=117,
        epochs=1.7,
        seed_sd=0.0406,
        seed_freedom=14,
        audit=_audit(),
        law=StudyLaw(refused=refused) if refused else _law(),
    )
    return StudyResult(study="scaling", numbers=numbers)


def _size(number: int) -> SizeLosses:
    return SizeLosses(
        size=f"{16 * (number + 1)}x{number + 2}",
        params=10_000 * 4**number,
        params_with_head=12_000 * 4**number,
        params_total=14_000 * 4**number,
        flops=10**10 * 4**number,
        flops_cosine=3 * 10**10 * 4**number,
        longest=1_920_000,
        first_loss=4.5295,
        last_loss=3.8749,
        gain_per_doubling=0.2819,
        seeds=1,
    )


def _audit() -> AuditRun:
    return AuditRun(
        run="076f6fcef6e0",
        params=200_000,
        params_with_head=221_760,
        params_total=221_760,
        tokens=3_840_000,
        batch=2048,
        flops=10**12,
        core_minutes=9.9,
        beyond=Beyond(params=4.5, params_with_head=4.5, params_total=4.5, tokens=2.0),
        loss=3.2247,
    )


def _law() -> StudyLaw:
    forms = []
    for place, form in enumerate(FORMS):
        for count in ("params", "params_with_head"):
            weight = (0.2, 0.15, 0.1, 0.05, 0.0)[place]
            forms.append(_form(form, count, weight + 0.001 * (count == "params")))
    return StudyLaw(
        forms=tuple(forms),
        audit=AuditForecast(
            predicted=3.3434,
            interval50=(3.3, 3.39),
            interval90=(3.2618, 3.4271),
            error=3.3434 / 3.2247 - 1,
            inside90=False,
        ),
        paper=PaperLaw(
            E=2.73,
            A=100.0,
            alpha=0.73,
            B=200.0,
            beta=0.404,
            c=1.0,
            standard_errors={},
            K2=1.0,
            eta=0.1,
            flops=2.3e11,
            tokens_per_param=75.7,
            warning="75.7 tokens a parameter lies above the range of the runs in the fit",
            audit_error=0.0363,
        ),
    )


def _form(form: str, count: str, weight: float) -> FormFound:
    return FormFound(
        form=form,
        count=count,
        E=2.0,
        A=40.0,
        alpha=0.3,
        B=120.0,
        beta=0.3,
        c=1.0,
        weight=weight,
        extrapolation_error=0.0067,
        inflation=1.0,
        misfit=0.0059,
        noise_sd=0.004,
        converged=form != "coupled",
        optimisers_differ=0.0,
        intervals={
            "E": LawInterval(value=2.0, interval90=(1.46, 3.1), identified=False),
            "alpha": LawInterval(value=0.3, interval90=(0.25, None), identified=True),
        },
        record=(),
    )
