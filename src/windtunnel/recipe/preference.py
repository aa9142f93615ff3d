"""Preference losses: how a model learns from pairs of answers, or from answers that were judged.

A loss is a pure function of log-ratios: of each answer, the log-probability under the model less
that under the reference. It is written with tensors' own methods: nothing here imports torch.

| loss    | of a record                                                                        |
|---------|------------------------------------------------------------------------------------|
| sigmoid | -log s(b (c - r)), DPO (2305.18290, Eq. 7)                                         |
| ipo     | (c - r - 1 / (2 b))^2, of means over tokens (2310.12036, Eq. 17)                   |
| hinge   | max(0, 1 - b (c - r)), SLiC (2305.10425)                                           |
| nca     | -log s(b c) - log s(-b c) / 2 - log s(-b r) / 2 (2402.05369)                       |
| kto     | 1 - s(b (c - k)) if it was judged good, else 1 - s(b (k - c)) (2402.01306, Eq. 8)   |

c and r are the log-ratios of the chosen and the rejected answer, b is beta, s the logistic
function, and k an estimate of the divergence from the reference.

To add one, add its record to `PREFERENCE_LOSSES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from windtunnel.choices import Table

if TYPE_CHECKING:
    from torch import Tensor

Answers = Literal["pairs", "judged"]
"""What a corpus of preferences holds: chosen and rejected answers to one question, or single
answers, each judged good or bad."""

# What the learnt tokens of a document are, as a corpus of preferences marks them.
CHOSEN, REJECTED, MISMATCHED = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Log-ratios of the records in W windows, which have room for R each: (..., W, R)."""

    first: Tensor
    """Of the chosen answer, or of the one that was judged."""
    second: Tensor
    """Of the rejected answer; where answers were judged, of another question's answer, which the
    divergence is estimated by."""
    good: Tensor
    """Whether the first is the better one, or was judged good."""
    there: Tensor
    """Where there is a record at all."""

    def mean(self, values: Tensor) -> Tensor:
        """Over the records of all windows, (..., 1, 1)."""
        count = self.there.sum((-2, -1), keepdim=True).clamp(min=1)
        return values.where(self.there, 0.0).sum((-2, -1), keepdim=True) / count


@dataclass(frozen=True, kw_only=True)
class PreferenceLoss:
    """One way to learn from preferences."""

    name: str
    help: str
    needs: Answers
    per_token: bool = False
    """Whether log-ratios are means over the tokens of an answer, where nobody says it."""
    loss: Callable[[Compared, Tensor], Tensor]
    """Of each record, (..., W, R), with beta, (..., 1, 1)."""
    flipped: Callable[[Compared], Compared]
    """The same records, judged the other way round."""

    def smoothed(self, compared: Compared, beta: Tensor, smoothing: float) -> Tensor:
        """The loss that is expected where so many judgements are wrong: for sigmoid, conservative
        DPO (Mitchell 2023). (..., W, R).
        """
        loss = self.loss(compared, beta)
        if not smoothing:
            return loss
        return (1 - smoothing) * loss + smoothing * self.loss(self.flipped(compared), beta)


def _minus_log_sigmoid(x: Tensor) -> Tensor:
    """log(1 + exp(-x)), whose slope at 0, where training begins, is -1/2."""
    return (-x).logaddexp(x.new_zeros(()))


def _sigmoid(compared: Compared, beta: Tensor) -> Tensor:
    return _minus_log_sigmoid(beta * (compared.first - compared.second))


def _ipo(compared: Compared, beta: Tensor) -> Tensor:
    return (compared.first - compared.second - 1 / (2 * beta)).square()


def _hinge(compared: Compared, beta: Tensor) -> Tensor:
    return (1 - beta * (compared.first - compared.second)).relu()


def _nca(compared: Compared, beta: Tensor) -> Tensor:
    first, second = beta * compared.first, beta * compared.second
    toward = _minus_log_sigmoid(first)
    return toward + _minus_log_sigmoid(-first) / 2 + _minus_log_sigmoid(-second) / 2


def _kto(compared: Compared, beta: Tensor) -> Tensor:
    # an estimate of a divergence, which is never below zero; it is not learnt
    divergence = compared.mean(compared.second).clamp(min=0).detach()
    gain = compared.first - divergence
    return 1 - (beta * gain.where(compared.good, -gain)).sigmoid()


def _swapped(compared: Compared) -> Compared:
    return replace(compared, first=compared.second, second=compared.first)


def _judged_anew(compared: Compared) -> Compared:
    return replace(compared, good=~compared.good)


PREFERENCE_LOSSES = Table(
    "preference loss",
    [
        PreferenceLoss(
            name="sigmoid",
            help="DPO: the chosen answer more likely than the rejected one, by a logistic loss",
            needs="pairs",
            loss=_sigmoid,
            flipped=_swapped,
        ),
        PreferenceLoss(
            name="ipo",
            help="IPO: a margin of 1 / (2 beta) a token, and no larger one",
            needs="pairs",
            per_token=True,
            loss=_ipo,
            flipped=_swapped,
        ),
        PreferenceLoss(
            name="hinge",
            help="SLiC: a margin of at least 1 / beta",
            needs="pairs",
            loss=_hinge,
            flipped=_swapped,
        ),
        PreferenceLoss(
            name="kto",
            help="KTO: single answers, each judged good or bad; pairs are taken apart for it",
            needs="judged",
            loss=_kto,
            flipped=_judged_anew,
        ),
        PreferenceLoss(
            name="nca",
            help="NCA: as DPO, and the chosen answer itself does not become less likely",
            needs="pairs",
            loss=_nca,
            flipped=_swapped,
        ),
    ],
)

PreferenceLossName = Annotated[str, PREFERENCE_LOSSES]
