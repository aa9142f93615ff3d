"""The scores of several models as a law of their bits per byte."""

from collections.abc import Iterator, Sequence

from windtunnel.errors import InputError
from windtunnel.evaluate.scores import BITS
from windtunnel.laws.score import ScorePoint, fit_score
from windtunnel.results.evaluation import Evaluation, FittedScore, Measure


def fitted(
    models: Sequence[Sequence[Evaluation]], at: float, chance: float
) -> Iterator[FittedScore]:
    """For each task that all models were scored on, the law of its first metric, and what it says
    `at` so many bits a byte of the first text that all were scored on; `chance`: what guessing
    scores. Raises InputError where there is no such task or text, or too few models.
    """
    told = [{one.task: one.measures[0] for one in of_model} for of_model in models]
    shared = [task for task in told[0] if all(task in of_model for of_model in told)]
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


def _point(bits: Measure, score: Measure) -> ScorePoint:
    return ScorePoint(loss=bits.value, score=score.value, stderr=score.stderr or 0.0)
