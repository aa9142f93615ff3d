"""Could a planned run be held against a band while its rate is still high?

    .venv/bin/python bench/stable_band.py [--lab DIR]

The law of the branches says where a decay from any point of a run would end. The stable phase lies
above that by what a decay gains, which the stems of the scaling study show at every branch point.
Here that gain is fitted by size and length, with and without the batch, and the band that both
make is held against the validations of every forecast run of the lab that is done. Trains nothing.
Prints a table a run and, last, one JSON list.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from claims import arguments, claim, header, last_line, row

from windtunnel.laws.choice import Predictor, choose
from windtunnel.model.shape import count
from windtunnel.plan.ledger import read_ledger
from windtunnel.plan.studies import from_lab
from windtunnel.results.scaling import SCALING, ScalingRow
from windtunnel.results.study import read_table
from windtunnel.train.run import Run, lineage, open_run


def main() -> None:
    """Fit the gain, and hold it against the lab's planned runs."""
    parser = arguments(__doc__)
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    lab = parser.parse_args().lab
    evidence = from_lab(lab, SCALING.name)
    predictor = choose(evidence.points, evidence.seed_sd)
    rows = [one for one in read_table(lab, SCALING) if (one.kind, one.source) == ("branch", "all")]
    gains = {
        "size and length": Gain.fitted(lab, rows, by_batch=False),
        "size, length and batch": Gain.fitted(lab, rows, by_batch=True),
    }
    claims = []
    for name in dict.fromkeys(forecast.run for forecast in read_ledger(lab).forecasts):
        if not (lab / "runs" / name).exists():
            continue
        run = open_run(lab / "runs" / name)
        if run.status().status != "done":
            continue
        batch, length = run.recipe.train.batch, run.recipe.total_tokens
        print(f"\n{run.recipe.name}: batch {batch}, {length} tokens; loss over the middle of the")
        print("band, minus 1, and half of the band's width, where the gain is fitted by\n")
        print(header("of the tokens", "loss", *gains))
        held = [stable_losses(run, predictor, gain) for gain in gains.values()]
        for points in zip(*held, strict=True):
            cells = [f"{point.error:+.2%} of {point.half:.2%}" for point in points]
            print(row(f"{points[0].share:.0%}", f"{points[0].loss:.4f}", *cells))
        for by, points in zip(gains, held, strict=True):
            inside = sum(abs(point.error) < point.half for point in points)
            what = f"{run.recipe.name}: inside the band, gain by {by}, of {len(points)}"
            claims.append(claim(what, inside, "validations"))
    last_line(claims)


@dataclass(frozen=True)
class Gain:
    """What a decay gains, as a share of the loss that it ends at: a power of the size, the length
    and, where it is known, the batch.
    """

    powers: tuple[float, ...]

    @classmethod
    def fitted(cls, lab: Path, rows: list[ScalingRow], by_batch: bool) -> "Gain":
        """By least squares in logarithms."""
        columns, gains = [], []
        for one in rows:
            if one.loss is not None:
                columns.append(_columns(one.params_total, one.tokens, one.batch, by_batch))
                branch = open_run(lab / "runs" / one.run)
                gains.append(np.log(stable_loss(branch) / one.loss - 1))
        powers, *_ = np.linalg.lstsq(np.array(columns), np.array(gains), rcond=None)
        return cls(tuple(map(float, powers)))

    def at(self, params: float, tokens: float, batch: float) -> float:
        """Of a run of this size, length and batch."""
        columns = _columns(params, tokens, batch, by_batch=len(self.powers) > 3)
        return float(np.exp(np.dot(self.powers, columns)))


def _columns(params: float, tokens: float, batch: float, by_batch: bool) -> list[float]:
    known = [1.0, float(np.log(params)), float(np.log(tokens))]
    return [*known, float(np.log(batch))] if by_batch else known


def stable_loss(branch: Run) -> float:
    """Of the stem, where the branch leaves it: between its validations there."""
    losses: dict[int, float] = {}
    for stem in lineage(branch)[1:]:
        for line in stem.validations():
            losses.setdefault(line.tokens, line.validation.loss)
    tokens = sorted(losses)
    at = np.log(branch.at_tokens or 0)
    return float(np.exp(np.interp(at, np.log(tokens), np.log([losses[t] for t in tokens]))))


@dataclass(frozen=True)
class Point:
    """A validation of the stable phase, held against the band."""

    share: float  # of the run's tokens
    loss: float
    error: float  # over the middle of the band, minus 1
    half: float  # of the band's width, as a share of its middle


def stable_losses(run: Run, predictor: Predictor, gain: Gain) -> list[Point]:
    """Each validation before the decay, against where the law and the gain expect it."""
    recipe, counts = run.recipe, count(run.recipe.model)
    params = {name: float(getattr(counts, name)) for name in predictor.points.counts}
    kept = 1 - recipe.decay_tokens / recipe.total_tokens
    found = []
    for line in run.validations():
        if line.tokens > recipe.total_tokens - recipe.decay_tokens:
            continue
        length = line.tokens / kept  # of the run whose decay would begin here
        decayed = predictor.predict(params, length)
        above = 1 + gain.at(counts.params_total, length, recipe.train.batch)
        low, high = decayed.interval90
        loss, middle = line.validation.loss, (low + high) / 2 * above
        half = (high - low) / 2 * above / middle
        found.append(Point(line.tokens / recipe.total_tokens, loss, loss / middle - 1, half))
    return found


if __name__ == "__main__":
    main()
