"""The trials of a search in an Optuna storage: which points to try, and what came of them.

What is asked depends on nothing but the study's name and what has been told before, so that a
search that was killed at any moment goes on as if it had not been. One process searches at a
time.
"""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.errors import InputError
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

    def ask(self, count: int) -> list[SearchPoint]:
        """The first `count` points; those that were not asked before are asked now, given what
        has been told.
        """
        trials = self._trials()
        while len(trials) < count:
            self._ask(len(trials))
            trials = self._trials()
        return [self._point(trial.params) for trial in trials[:count]]

    def tell(self, first: int, outcomes: Sequence[Outcome]) -> None:
        """Record what came of the trials from the `first` on. A run that diverged counts as the
        worst one so far that did not: no better than that, and not so bad that the sampler's
        surface would be torn.
        """
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
        from optuna.trial import TrialState

        asked = self.study.get_trials(
            deepcopy=False, states=(TrialState.RUNNING, TrialState.COMPLETE)
        )
        whole = []
        for trial in asked:
            if len(trial.params) == len(self.space.settings):
                whole.append(trial)
            else:
                # it was killed while it was being asked
                self.study.tell(trial.number, state=TrialState.FAIL)
        return whole

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
    try:
        # every point is put into the queue: Optuna's own sampler never chooses one
        sampler = optuna.samplers.RandomSampler(seed=0)
        study = optuna.create_study(
            storage=storage,
            sampler=sampler,
            study_name=f"{title} {digest}",
            direction="minimize",
            load_if_exists=True,
        )
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, ValueError) as error:
        fault = str(error).splitlines()[0]
        raise InputError(
            f"--storage {storage}: not a storage that Optuna can open: {fault}"
        ) from None
    return Trials(study, space, start, seed)


def worst_loss(losses: Sequence[float | None]) -> float:
    """What a diverged run counts as: the worst loss of those that did not diverge; 0 if there is
    none.
    """
    return max((loss for loss in losses if loss is not None and math.isfinite(loss)), default=0.0)
