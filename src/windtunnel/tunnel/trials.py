"""The trials of a search in an Optuna storage: which points to try, and what came of them.

What is asked depends on nothing but the study's name and what has been told before, so that a search that was killed at
any moment goes on as if it had not been. One process searches at a time.
"""

import hashlib
import json
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.tunnel.space import Point, Space

if TYPE_CHECKING:
    import optuna

SAMPLER = "optuna GPSampler (Gaussian process, batch log expected improvement)"


@dataclass(frozen=True)
class Outcome:
    """What came of a trial's run: its loss, or why it has none."""

    run: str
    loss: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Trials:
    """A search's trials, in the order in which they were asked. A trial that was killed while it was being asked has
    no place among them."""

    study: "optuna.Study"
    space: Space
    start: int  # trials before the sampler begins: the paper's point, then a Sobol sequence
    seed: int

    def ask(self, count: int) -> list[Point]:
        """The first `count` points; those that were not asked before are asked now, given what has been told."""
        trials = self._trials()
        while len(trials) < count:
            self._ask(len(trials))
            trials = self._trials()
        return [self._point(trial.params) for trial in trials[:count]]

    def tell(self, first: int, outcomes: Sequence[Outcome]) -> None:
        """Record what came of the trials from the `first` on. A run that diverged counts as the worst one so far that
        did not: no better than that, and not so bad that the sampler's surface would be torn."""
        import optuna
        from optuna.trial import TrialState

        trials = self._trials()
        worst = worst_loss([t.value for t in trials[:first]] + [outcome.loss for outcome in outcomes])
        # a trial opened to be written to would ask its study's sampler for a point first
        self.study.sampler = optuna.samplers.RandomSampler(seed=0)
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

        if index < self.start:
            if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                self.study.enqueue_trial(self._start_params(index))
            self.study.sampler = optuna.samplers.RandomSampler(seed=0)
        else:
            seed = int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])
            self.study.sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=1)
        self.study.ask({
            s.label: optuna.distributions.FloatDistribution(s.low, s.high, log=True) for s in self.space.settings
        })  # fmt: skip

    def _start_params(self, index: int) -> dict[str, float]:
        if index == 0:
            return {s.label: s.searched(s.default) for s in self.space.settings}
        octaves = self.space.spread(self.start - 1, self.seed)[index - 1]
        return {s.label: min(max(2.0**x, s.low), s.high) for s, x in zip(self.space.settings, octaves, strict=True)}

    def _trials(self) -> list["optuna.trial.FrozenTrial"]:
        from optuna.trial import TrialState

        asked = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.COMPLETE))
        whole = []
        for trial in asked:
            if len(trial.params) == len(self.space.settings):
                whole.append(trial)
            else:
                self.study.tell(trial.number, state=TrialState.FAIL)  # killed while it was being asked
        return whole

    def _point(self, params: dict[str, Any]) -> Point:
        return {s.name: s.rounded(params[s.label]) for s in self.space.settings}


def open_trials(storage: str, space: Space, start: int, seed: int, title: str, what: Sequence[Any]) -> Trials:
    """The study of this storage (any URL that Optuna takes) for the search of `what` (JSON), made where it is
    missing. Raises InputError for a storage that can't be opened."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("optuna").setLevel(logging.WARNING)
    # all that it warns of is that it asks a little slower where there is no greenlet
    logging.getLogger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    asked = [*what, seed, start, [(s.label, s.low, s.high) for s in space.settings], optuna.__version__]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    try:
        study = optuna.create_study(
            storage=storage, study_name=f"{title} {digest}", direction="minimize", load_if_exists=True
        )
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, ValueError) as error:
        fault = str(error).splitlines()[0]
        raise InputError(f"--storage {storage}: not a storage that Optuna can open: {fault}") from None
    return Trials(study, space, start, seed)


def worst_loss(losses: Sequence[float | None]) -> float:
    """What a diverged run counts as: the worst loss of those that did not diverge; 0 if there is none."""
    return max((loss for loss in losses if loss is not None and math.isfinite(loss)), default=0.0)
