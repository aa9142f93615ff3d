"""What a planned model may score on tasks: by the law from loss to score through the lab's runs
that were evaluated on them.
"""

from pathlib import Path

from windtunnel.results.plan import ExpectedScore, Interval
from windtunnel.results.scores import TaskScores, read_scores


def expected_scores(
    lab: Path, corpus: str, loss: float, interval90: Interval
) -> tuple[ExpectedScore, ...]:
    """Of each task on which the lab's runs that read this corpus were scored. The interval is that
    of the loss, nats/token, and of the law together. Raises InputError for a damaged file.
    """
    return tuple(_expected(one, loss, interval90) for one in read_scores(lab, corpus))


def _expected(scores: TaskScores, loss: float, interval90: Interval) -> ExpectedScore:
    # scipy's optimisers take a quarter of a second, which a plan without scores need not wait for
    from windtunnel.laws.score import ScorePoint, fit_score

    points = [ScorePoint(loss=run.loss, score=run.score, stderr=run.stderr) for run in scores.runs]
    law = fit_score(points, scores.chance)
    score, low, high = law.at(loss, interval90)
    return ExpectedScore(
        task=scores.task,
        metric=scores.metric,
        score=score,
        interval90=(low, high),
        chance=scores.chance,
        losses=law.reach,
        flat=law.flat,
        runs=tuple(dict.fromkeys(run.run for run in scores.runs)),
    )
