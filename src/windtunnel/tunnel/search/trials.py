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
        before = [trial.value for trial in trials[:first]]
        worst = worst_loss([*before, *(outcome.loss for outcome in outcomes)])
        told = trials[first : first + len(outcomes)]
        for trial, outcome in zip(told, outcomes, strict=True):
            # a search that was killed and goes on tells what had been told
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

        # a search that was killed between the two calls below has left its point in the queue
        if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            point = self._starting(index) if index < self.start else self._suggested(index)
            queued = {}
            for setting, x in zip(self.space.settings, point, strict=True):
                # within the bounds when rounding has put it a hair outside
                queued[setting.label] = min(max(2.0**x, setting.low), setting.high)
            self.study.enqueue_trial(queued)
        axes: dict[str, optuna.distributions.BaseDistribution] = {}
        for setting in self.space.settings:
            axes[setting.label] = optuna.distributions.FloatDistribution(
                setting.low, setting.high, log=True
            )
        self.study.ask(axes)

    def _starting(self, index: int) -> NDArray[np.float64]:
        """The paper's point, then a Sobol sequence, (settings,) octaves."""
        if index == 0:
            return self.space.octaves([self.space.defaults])[0]
        return self.space.spread(self.start - 1, self.seed)[index - 1]

    def _suggested(self, index: int) -> NDArray[np.float64]:
        """By the surface through what has been told, (settings,) octaves."""
        ended, losses, running = [], [], []
        for trial in self._trials():
            if trial.value is None:
                running.append(trial)
            else:
                ended.append(trial)
                losses.append(trial.value)
        # of its own for each trial, whatever was asked for before
        seed = int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])
        return suggest(self.space, self._octaves(ended), losses, self._octaves(running), seed)

    def _octaves(self, trials: Sequence["optuna.trial.FrozenTrial"]) -> Octaves:
        """(trials, settings); of no trials (0, settings)."""
        labels = [setting.label for setting in self.space.settings]
        points = np.empty((len(trials), len(labels)))
        for row, trial in zip(points, trials, strict=True):
            row[:] = [trial.params[label] for label in labels]
        return np.log2(points)

    def _trials(self) -> list["optuna.trial.FrozenTrial"]:
        from optuna.trial import TrialState

        asked = self.study.get_trials(
            deepcopy=False, states=(TrialState.RUNNING, TrialState.COMPLETE)
        )
        whole = []
        for trial in asked:
            if len(trial.params) == len(self.space.settings):
                whole.append(trial)
            else:  # killed while it was being asked
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
