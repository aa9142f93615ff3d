"""The trials of a search in an Optuna storage: which points to try, and what came of them.

What is asked depends on nothing but the study's name and what has been told before, so that a
search that was killed at any moment goes on as if it had not been. Several processes may carry out
one search, on one lab: one at a time asks and tells, all are given the same points, and their
fleets share the runs.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.errors import InputError
from windtunnel.tunnel.search.alone import alone, with_driver
from windtunnel.tunnel.search.sampler import suggest
from windtunnel.tunnel.search.space import Octaves, SearchPoint, Space

if TYPE_CHECKING:
    import optuna

SAMPLER = (
    "log expected improvement on the surface (a Gaussian process that knows its noise), by batches"
)


@dataclass(frozen=True)
class Outcome:
    """What came of a trial's run: its loss, or why it has none."""

    run: str
    loss: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Trials:
    """A search's trials, in the order in which they were asked. A trial that was killed while it
    was being asked has no place among them.
    """

    study: "optuna.Study"
    space: Space
    start: int  # trials before the surface suggests: the paper's point, then a Sobol sequence
    seed: int
    alone: Callable[[], AbstractContextManager[None]]  # while it asks or tells

    def ask(self, count: int) -> list[SearchPoint]:
        """The first `count` points; those that were not asked before are asked now, given what
        has been told.
        """
        with self.alone():
            self._fail_half_asked()
            trials = self._trials()
            while len(trials) < count:
                self._ask(len(trials))
                trials = self._trials()
        return [self._point(trial.params) for trial in trials[:count]]

    def tell(self, first: int, outcomes: Sequence[Outcome]) -> None:
        """Record what came of the trials from the `first` on. A run that diverged counts as the
        worst one so far that did not: no better than that, and not so bad that the sampler's
        surface would be torn. What another process has told already stays as it is.
        """
        with self.alone():
            self._tell(first, outcomes)

    def _tell(self, first: int, outcomes: Sequence[Outcome]) -> None:
        import optuna
        from optuna.trial import TrialState

        trials = self._trials()
        worst = worst_loss(
            [t.value for t in trials[:first]] + [outcome.loss for outcome in outcomes]
        )
        for trial, outcome in zip(trials[first : first + len(outcomes)], outcomes, strict=True):
            if trial.state != TrialState.RUNNING:
                continue
            opened = optuna.trial.Trial(self.study, trial._trial_id)
            opened.set_user_attr("run", outcome.run)
            if outcome.reason:
                opened.set_user_attr("diverged", outcome.reason)
            self.study.tell(trial.number, worst if outcome.loss is None else outcome.loss)

    def _ask(self, index: int) -> None:
        import optuna
        from optuna.trial import TrialState

        if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            point = self._starting(index) if index < self.start else self._suggested(index)
            # within the bounds when rounding has put it a hair outside
            self.study.enqueue_trial(
                {
                    s.label: min(max(2.0**x, s.low), s.high)
                    for s, x in zip(self.space.settings, point, strict=True)
                }
            )
        self.study.ask(
            {
                s.label: optuna.distributions.FloatDistribution(s.low, s.high, log=True)
                for s in self.space.settings
            }
        )

    def _starting(self, index: int) -> NDArray[np.float64]:
        """The paper's point, then a Sobol sequence, (settings,) octaves."""
        if index == 0:
            return self.space.octaves([self.space.defaults])[0]
        return self.space.spread(self.start - 1, self.seed)[index - 1]

    def _suggested(self, index: int) -> NDArray[np.float64]:
        trials = self._trials()
        ended = [trial for trial in trials if trial.value is not None]
        running = [trial for trial in trials if trial.value is None]
        seed = int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])
        losses = [trial.value for trial in ended if trial.value is not None]
        return suggest(self.space, self._octaves(ended), losses, self._octaves(running), seed)

    def _octaves(self, trials: Sequence["optuna.trial.FrozenTrial"]) -> Octaves:
        points = [[trial.params[s.label] for s in self.space.settings] for trial in trials]
        return np.log2(np.reshape(points, (len(trials), len(self.space.settings))))

    def _trials(self) -> list["optuna.trial.FrozenTrial"]:
        return [trial for trial in self._asked() if self._is_whole(trial)]

    def _fail_half_asked(self) -> None:
        """Who asked them was killed: nobody else asks now."""
        from optuna.trial import TrialState

        for trial in self._asked():
            if not self._is_whole(trial):
                self.study.tell(trial.number, state=TrialState.FAIL)

    def _asked(self) -> list["optuna.trial.FrozenTrial"]:
        from optuna.trial import TrialState

        states = (TrialState.RUNNING, TrialState.COMPLETE)
        return self.study.get_trials(deepcopy=False, states=states)

    def _is_whole(self, trial: "optuna.trial.FrozenTrial") -> bool:
        return len(trial.params) == len(self.space.settings)

    def _point(self, params: dict[str, Any]) -> SearchPoint:
        return {s.name: s.rounded(params[s.label]) for s in self.space.settings}


def open_trials(
    storage: str, space: Space, start: int, seed: int, title: str, what: Sequence[Any]
) -> Trials:
    """The study of this storage (any URL that Optuna takes) for the search of `what` (JSON), made
    where it is missing. Raises InputError for a storage that can't be opened.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("optuna").setLevel(logging.WARNING)
    asked = [*what, seed, start, [(s.label, s.low, s.high) for s in space.settings], SAMPLER]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{title} {digest}"
    storage = with_driver(storage)
    try:
        # every point is put into the queue: Optuna's own sampler never chooses one
        sampler = optuna.samplers.RandomSampler(seed=0)
        # one at a time: whoever comes first makes the tables
        with alone(storage, "open"):
            study = optuna.create_study(
                storage=storage,
                sampler=sampler,
                study_name=name,
                direction="minimize",
                load_if_exists=True,
            )
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, ValueError) as error:
        fault = str(error).splitlines()[0]
        raise InputError(
            f"--storage {storage}: not a storage that Optuna can open: {fault}"
        ) from None
    return Trials(study, space, start, seed, lambda: alone(storage, name))


def worst_loss(losses: Sequence[float | None]) -> float:
    """What a diverged run counts as: the worst loss of those that did not diverge; 0 if there is
    none.
    """
    return max((loss for loss in losses if loss is not None and math.isfinite(loss)), default=0.0)
