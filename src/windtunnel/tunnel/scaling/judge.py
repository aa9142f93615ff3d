"""The verdict of a scaling study, and its summary."""

import math

from windtunnel.quantities import about
from windtunnel.results.scaling import AuditForecast, AuditRun, ScalingNumbers
from windtunnel.results.study import Verdict
from windtunnel.tunnel.scaling.design import (
    FEWEST_SIZES,
    FEWEST_STEPS,
    HIGHEST_COST,
    SMALLEST_SPAN,
)


def judge(numbers: ScalingNumbers, failed: int) -> tuple[Verdict, str]:
    """The verdict and one sentence. A study that is smaller than what a law needs has none, and
    says so. `failed`: runs that diverged.
    """
    summary = _summary(numbers)
    forecast = numbers.law.audit
    if failed:
        return "fail", f"{summary}; {failed} {'run' if failed == 1 else 'runs'} diverged"
    if missing := _missing(numbers):
        return None, f"{summary}; too small for a verdict, which needs {', '.join(missing)}"
    if forecast and forecast.inside90 is False:
        return "fail", f"{summary}, outside the interval"
    return "pass", summary


def _missing(numbers: ScalingNumbers) -> list[str]:
    """What a law needs and this study has not."""
    missing = []
    if len(numbers.sizes) < FEWEST_SIZES:
        missing.append(f"{FEWEST_SIZES} sizes")
    if numbers.span < SMALLEST_SPAN:
        missing.append(f"a span of {SMALLEST_SPAN}x in parameters")
    if numbers.fewest_steps < FEWEST_STEPS:
        missing.append(f"{FEWEST_STEPS} steps at the shortest length")
    if numbers.cost.ratio > HIGHEST_COST:
        missing.append(f"a cost of at most {HIGHEST_COST}x of retraining")
    if numbers.epochs > 1:
        missing.append("a corpus that no run reads more than once")
    return missing


def _summary(numbers: ScalingNumbers) -> str:
    losses = []
    for size in numbers.sizes:
        losses += [loss for loss in (size.first_loss, size.last_loss) if loss is not None]
    parts = [
        f"{len(numbers.sizes)} sizes over {numbers.span:.1f}x, {len(numbers.lengths)} lengths from "
        f"{about(numbers.lengths[0])} to {about(numbers.lengths[-1])} tokens, at "
        f"{numbers.cost.ratio:.3f} of what cosine runs from scratch would cost",
        f"loss from {max(losses, default=math.nan):.3f} to {min(losses, default=math.nan):.3f}",
    ]
    if numbers.seed_sd is not None:
        parts.append(f"seeds differ by {numbers.seed_sd:.4f} (SD)")
    if numbers.audit:
        parts.append(_summary_of_audit(numbers.audit, numbers.law.audit))
    return "; ".join(parts)


def _summary_of_audit(audit: AuditRun, forecast: AuditForecast | None) -> str:
    got = "diverged" if audit.loss is None else f"{audit.loss:.4f}"
    text = (
        f"audit run of {about(audit.params_total)} parameters and {about(audit.tokens)} tokens: "
        f"{got}"
    )
    if forecast:
        low, high = forecast.interval90
        text += f", predicted {forecast.predicted:.4f}, 90% [{low:.3f}, {high:.3f}]"
        text += "" if forecast.error is None else f", {forecast.error:+.2%} off"
    return text
