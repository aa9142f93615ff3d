"""The learning rate of the runs of a scaling study: the one that the lab found best."""

from dataclasses import dataclass
from pathlib import Path

from windtunnel.data.shards import Corpus
from windtunnel.results.scaling import RateUsed
from windtunnel.results.studied import PAPER_RATE, Studies
from windtunnel.tunnel.scaling.design import LR_BATCH, RATE_RULES, Design


@dataclass(frozen=True)
class Rate:
    """The base learning rate by the batch."""

    used: RateUsed
    rule: str  # of RATE_RULES

    def at(self, batch: int) -> float:
        """The base learning rate of a run with this batch, in tokens a step."""
        return self.used.lr * RATE_RULES[self.rule].factor(batch / LR_BATCH)


def rate_of(lab: Path, corpus: Corpus, design: Design) -> Rate:
    """The design's own rate; else the best that the lab's transfer study found on this corpus, or
    its search; the paper's, where neither found one. Raises InputError for a damaged study.
    """
    return Rate(_used(lab, corpus, design), design.lr_with_batch)


def _used(lab: Path, corpus: Corpus, design: Design) -> RateUsed:
    if design.lr is not None:
        return RateUsed(origin="given", lr=design.lr)
    for found in Studies(lab, corpus.folder.name).rates():
        origin = f"the lab's {found.study} study ({found.at})"
        return RateUsed(origin=origin, lr=_three_digits(found.lr), interval=found.interval)
    return RateUsed(origin="the paper's (section 3.3); no study of the lab", lr=PAPER_RATE)


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")
