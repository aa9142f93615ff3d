"""The scores of several models as a law of their bits per byte, or of their losses."""

from collections.abc import Iterator, Sequence

from windtunnel.errors import InputError
from windtunnel.evaluate.scores import BITS
from windtunnel.laws.score import ScorePoint, fit_score
from windtunnel.results.evaluation import Evaluation, FittedScore, Measure
from windtunnel.results.scores import ScoredRun, TaskScores
from windtunnel.train.run import Run


def fitted(
    models: Sequence[Sequence[Evaluation]], at: float, chance: float
) -> Iterator[FittedScore]:
    """For each task that all models were scored on, the law of its first metric, and what it says
    `at` so many bits a byte of the first text that all were scored on; `chance`: what guessing
    scores. Raises InputError where there is no such task or text, or too few models.
    """
    told = [{one.task: one.measures[0] for one in of_model} for of_model in models]
    shared = _shared(models)
    texts = [task for task in shared if told[0][task].metric == BITS]
    tasks = [task for task in shared if told[0][task].higher_is_better]
    if not texts or not tasks:
        raise InputError(
            "--law: it is of a task's score and of bits per byte; name a --task, and --solutions, "
            "a --text or a --corpus"
        )
    for task in tasks:
        points = [_point(of_model[texts[0]], of_model[task]) for of_model in told]
        law = fit_score(points, chance)
        value, low, high = law.at(at)
        yield FittedScore(
            task=task,
            metric=told[0][task].metric,
            text=texts[0],
            models=len(points),
            chance=chance,
            middle=law.middle,
            steepness=law.steepness,
            steepness90=law.steepness90,
            scatter=law.scatter,
            reach=law.reach,
            at=at,
            score=value,
            interval90=(low, high),
        )


def scores_of(
    runs: Sequence[Run], models: Sequence[Sequence[Evaluation]], chance: float
) -> Iterator[TaskScores]:
    """For each task that all of these runs were scored on, what a plan makes a law of: their scores
    beside their losses. None where they read different corpora, whose losses do not compare, or
    where one was not validated at its checkpoint.
    """
    corpora = {run.recipe.data.corpus for run in runs}
    for task in _shared(models):
        found = [next(one for one in of_model if one.task == task) for of_model in models]
        scored = [_scored(run, one) for run, one in zip(runs, found, strict=True)]
        known = [one for one in scored if one]
        measure = found[0].measures[0]
        if measure.higher_is_better and len(corpora) == 1 and len(known) == len(runs):
            yield TaskScores(
                task=task,
                metric=measure.metric,
                settings=found[0].settings,
                corpus=runs[0].recipe.data.corpus,
                chance=chance,
                runs=tuple(known),
            )


def _scored(run: Run, found: Evaluation) -> ScoredRun | None:
    measure = found.measures[0]
    for line in run.validations():
        if line.tokens == found.tokens:
            return ScoredRun(
                run=run.id,
                tokens=line.tokens,
                loss=line.validation.loss,
                score=measure.value,
                stderr=measure.stderr or 0.0,
            )
    return None


def _shared(models: Sequence[Sequence[Evaluation]]) -> list[str]:
    """The tasks and texts that all models were scored on."""
    names = [{one.task for one in of_model} for of_model in models]
    return [one.task for one in models[0] if all(one.task in told for told in names)]


def _point(bits: Measure, score: Measure) -> ScorePoint:
    return ScorePoint(loss=bits.value, score=score.value, stderr=score.stderr or 0.0)
