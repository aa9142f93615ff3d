"""How many kin runs a worker trains together, as members of one population: measured on the
machine, once a shape.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from windtunnel.files import write_whole
from windtunnel.model.shape import flops_per_token
from windtunnel.recipe import Recipe
from windtunnel.train.run import Run

MOST = 64  # members that are ever tried
# FLOPs of kin runs that are worth a measurement: some minutes of one worker that trains one small
# model at a time
_WORTH = {"cpu": 4e12, "mps": 2e13, "cuda": 1e15}
_ENOUGH = 1.15  # times as fast as alone; with less, runs are better free of each other

Gains = dict[int, float]  # times as fast as one after the other, by the number of members


def best(gains: Gains) -> int:
    """The number of members that trains fastest; 1 unless that is clearly faster than one after
    the other.
    """
    fastest = max(gains, key=lambda members: gains[members])
    return fastest if gains[fastest] >= _ENOUGH else 1


def share(kin: int, workers: int, most: int) -> int:
    """Members of the next population, a power of two, of so many kin runs that wait: all workers
    shall be busy, to the same end, with at most `most` members each.
    """
    rounds = -(-kin // (workers * most))
    fair = -(-kin // (rounds * workers))
    return 1 << (fair.bit_length() - 1)


def told(gains: Gains) -> str:
    """What was chosen, and why."""
    ratios = ", ".join(
        f"{members} together {gain:.2f}" for members, gain in gains.items() if members > 1
    )
    chosen = best(gains)
    how = f"{chosen} members together" if chosen > 1 else "one at a time"
    return f"a worker trains {how} (times as fast as one after the other: {ratios or 'none was tried'})"


def worth_measuring(runs: Sequence[Run], device: str) -> bool:
    """Whether so much is left to train of these kin runs that a measurement will have been
    short.
    """
    lengths = (max(0, run.recipe.total_tokens - run.status()["tokens"]) for run in runs)
    flops = flops_per_token(runs[0].recipe.model, runs[0].recipe.data.context)
    return len(runs) > 1 and flops * sum(lengths) >= _WORTH[device]


class Book:
    """What was measured on this machine, kept in the lab: a study that goes on chooses as it did
    before.
    """

    def __init__(self, lab: Path, machine: str) -> None:
        self._file, self._machine = lab / "populations.json", machine

    def find(self, recipe: Recipe) -> Gains | None:
        gains = self._all().get(self._machine, {}).get(_name(recipe))
        return gains and {int(members): gain for members, gain in gains.items()}

    def write(self, recipe: Recipe, gains: Gains) -> None:
        book = self._all()
        book.setdefault(self._machine, {})[_name(recipe)] = gains
        write_whole(self._file, json.dumps(book, indent=1))

    def _all(self) -> dict[str, Any]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}


def _name(recipe: Recipe) -> str:
    """Of what a measurement depends on."""
    m, data, train = recipe.model, recipe.data, recipe.train
    shape = f"{m.width}x{m.depth}, heads {m.heads}/{m.kv_heads} of {m.head_size}, ffn {m.ffn}, vocabulary {m.vocab}"
    tied = "tied" if m.tied else "untied"
    shape += f", {m.experts_per_token} of {m.experts} experts" if m.experts else ""
    return f"{shape}, {tied}, context {data.context}, batch {train.batch}, {train.precision}, compile {train.compile}"
