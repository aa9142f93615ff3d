"""What a lab's studies of one corpus found of models that are trained in one way: the one place
where experiments and plans look for each other's results.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.recipe import Model, Optimizer
from windtunnel.results.check import CheckNumbers
from windtunnel.results.experiments import Studied, study_of
from windtunnel.results.plan import StudiedRate
from windtunnel.results.search import SEARCH, SearchNumbers
from windtunnel.results.study import Experiment, Numbers, StudyResult
from windtunnel.results.transfer import TRANSFER, TransferNumbers

PAPER_RATE = 0.01  # the base rate that the paper found best from 0.009B to 2.1B (section 3.3)


@dataclass(frozen=True)
class TrainedAs:
    """How models are trained; as the tunnel's proxy, where a study does not say."""

    optimizer: str = Optimizer.default("kind")
    parametrization: str = Model.default("parametrization")


def trained_in(numbers: Numbers) -> TrainedAs:
    """How the models were trained of which a study says something."""
    match numbers:
        case CheckNumbers():
            return TrainedAs(numbers.design.optimizer, numbers.design.parametrization)
        case SearchNumbers():
            return TrainedAs(numbers.optimizer)
        case TransferNumbers(parametrizations=found) if found:
            # the verdict is on the first one
            return TrainedAs(parametrization=next(iter(found)))
        case _:
            return TrainedAs()


@dataclass(frozen=True)
class Studies:
    """The studies of a lab on one corpus, for models that are trained in one way."""

    lab: Path
    corpus: str
    trained: TrainedAs = TrainedAs()

    def find(self, experiment: Experiment[Studied, Any]) -> StudyResult[Studied] | None:
        """The lab's study, if it was made on this corpus or does not say on which, and with this
        optimiser. What it found of each parametrization is for the caller to look up. Raises
        InputError for a study that is damaged.
        """
        result = study_of(self.lab, experiment, self.corpus)
        if result and trained_in(result.numbers).optimizer != self.trained.optimizer:
            return None
        return result

    def rates(self) -> tuple[StudiedRate, ...]:
        """The best learning rates, that of the larger models first. Raises InputError for a study
        that is damaged.
        """
        found = (self._transferred(), self._searched())
        return tuple(rate for rate in found if rate is not None)

    def _transferred(self) -> StudiedRate | None:
        """The best rate of the widest model of the transfer study, of this parametrization."""
        result = self.find(TRANSFER)
        if result is None:
            return None
        rates = result.numbers.parametrizations.get(self.trained.parametrization)
        known = [size for size in rates.sizes if size.lr] if rates else []
        if not known:
            return None
        widest = max(known, key=lambda size: size.width)
        return StudiedRate(
            study=TRANSFER.name,
            lr=widest.lr or 0.0,
            interval=widest.interval,
            at=f"{widest.width}x{widest.depth}, {result.numbers.tokens} tokens",
            runs=result.runs,
        )

    def _searched(self) -> StudiedRate | None:
        """The search's chosen rate, where its runs were long enough to tell and it did not lose to
        the paper's defaults.
        """
        result = self.find(SEARCH)
        if result is None:
            return None
        numbers = result.numbers
        lr, outcome = numbers.chosen.point.get("lr"), numbers.outcome
        if lr is None or outcome in (None, "loses"):
            return None
        where = f"{numbers.width}x{numbers.depth}, {numbers.tokens} tokens"
        return StudiedRate(
            study=SEARCH.name,
            lr=lr,
            interval=None,
            at=f"{where}; {outcome} the paper's",
            outcome=outcome,
            runs=result.runs,
        )
