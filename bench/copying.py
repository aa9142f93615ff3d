"""Would sealed forecasts have held, had they known of copying?

    .venv/bin/python bench/copying.py CORPUS... [--lab DIR]

Of each corpus of the lab, which has a ledger of opened forecasts in docs/measured: the share of the
loss that lies on tokens that came after the same token before in their window, under a table of
pairs of the text to train on; and the forecasts as they were sealed beside the same with what
`laws/copying.py` says of runs that may learn to copy.
Prints a table and, last, one JSON list.
"""

import json
from pathlib import Path

import numpy as np
import torch
from claims import arguments, claim, header, last_line, row
from far_runs import MEASURED, ours, sealed
from numpy.typing import NDArray
from reach import Said, interval_score

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.laws.copying import ENDS, EXPECTED, by_then, yet_to_save
from windtunnel.laws.points import read_points
from windtunnel.recipe import Data
from windtunnel.train.objective import Batch
from windtunnel.tunnel.scaling.copying import copyable

WINDOWS, COUNTED = 256, 2_000_000  # held-out windows, and tokens that make the table of pairs


def main() -> None:
    """Each corpus in turn."""
    parser = arguments(__doc__)
    parser.add_argument("corpora", nargs="+", metavar="CORPUS")
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    asked = parser.parse_args()
    named = ("signed mean", "mean", "largest", "held", "median half width", "score")
    print(header("corpus", "copyable", "forecasts", *named))
    claims = []
    for corpus in asked.corpora:
        share = told_by_pairs(Corpus.open(asked.lab / "corpora" / corpus))
        forecasts = sealed(corpus)
        got = losses_of(corpus)
        said = [one for one in forecasts if one.id in got]
        reached = np.array([got[one.id] for one in said])
        plain = ours(said)
        table = read_points(MEASURED / f"{corpus}.csv")
        times = [one.params * one.tokens for one in said] / (table.size * table.tokens).max()
        wary = with_copying(plain, by_then(yet_to_save(0.0, share), times))
        for name, way in (("as sealed", plain), ("with copying", wary)):
            off, scores = np.log(way.loss / reached), interval_score(way, reached)
            assert scores, "both state intervals"
            found = {
                "signed mean": off.mean(),
                "mean": np.abs(off).mean(),
                "largest": np.abs(off).max(),
                "held": scores.holds,
                "median half width": scores.half_width,
                "score": scores.winkler,
            }
            print(row(corpus, f"{share:.1%}", name, *(f"{x:.2%}" for x in found.values())))
            claims += [claim(f"{corpus}, {name}: {what}", x, "") for what, x in found.items()]
    last_line(claims)


def told_by_pairs(corpus: Corpus) -> float:
    """The share of the loss that copying may tell, by how often tokens follow each other."""
    (name,) = corpus.sources
    windows = Windows(corpus, Data(corpus=corpus.folder.name), seed=0)
    batch = Batch.read(torch.from_numpy(windows.validation(name, WINDOWS * windows.context)))
    stream = corpus.sources[name].train
    text = stream.read(np.array([0]), min(COUNTED, stream.tokens - 1) + 1)[0]
    chances = pairs(text, len(corpus.tokenizer.token_bytes))

    def losses(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(-np.log(chances[inputs.numpy(), targets.numpy()])).flatten()

    return copyable(losses, batch.inputs, batch.targets)


def pairs(text: NDArray[np.int64], vocab: int) -> NDArray[np.float64]:
    """(vocab, vocab): how likely each token is after each, with two counts of the tokens' own
    frequencies.
    """
    counts = np.zeros((vocab, vocab))
    np.add.at(counts, (text[:-1], text[1:]), 1)
    alone = counts.sum(0) + 0.5
    return (counts + 2 * alone / alone.sum()) / (counts.sum(1, keepdims=True) + 2)


def losses_of(corpus: str) -> dict[str, float]:
    """What was reached, by the forecast."""
    lines = (MEASURED / f"{corpus}-forecasts.jsonl").read_text(encoding="utf-8").splitlines()
    found = {}
    for line in map(json.loads, lines):
        if line["kind"] == "outcome":
            found[line["forecast"]] = line["loss"]
    return found


def with_copying(said: Said, saved: NDArray[np.float64]) -> Said:
    """The same, lower as a plan has it."""
    assert said.low is not None
    return Said(
        loss=said.loss * np.exp(-EXPECTED * saved),
        low=said.low * np.exp(-ENDS[1] * saved),
        high=said.high,
    )


if __name__ == "__main__":
    main()
