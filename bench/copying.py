"""Would sealed forecasts have held, had they known of copying?

    .venv/bin/python bench/copying.py CORPUS... [--lab DIR]

Of each corpus of the lab, which has a ledger of opened forecasts in docs/measured: the share of the
loss that lies on tokens that came after the same token before in their window, under a table of
pairs of the text to train on; and the forecasts as they were sealed beside the same with what
`laws/copying.py` says of runs that may learn to copy.
Prints two tables and, last, one JSON list.
"""

from pathlib import Path

import numpy as np
import torch
from claims import Claim, arguments, claim, header, last_line, row
from far_runs import MEASURED, SCORED, opened, ours, scored, sealed
from numpy.typing import NDArray
from reach import Said

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.laws.copying import ENDS, EXPECTED, by_then, yet_to_save
from windtunnel.laws.points import read_points
from windtunnel.recipe import Data
from windtunnel.tunnel.scaling.copying import copyable, held_out

WINDOWS, COUNTED = 256, 2_000_000  # held-out windows, and tokens that make the table of pairs


def main() -> None:
    """Each corpus in turn."""
    parser = arguments(__doc__)
    parser.add_argument("corpora", nargs="+", metavar="CORPUS")
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    asked = parser.parse_args()
    print(header("forecasts", *SCORED))
    claims: list[Claim] = []
    shares: dict[str, float] = {}
    for corpus in asked.corpora:
        share = told_by_pairs(Corpus.open(asked.lab / "corpora" / corpus))
        got = {one.forecast: one.loss for one in opened(corpus)}
        said = [one for one in sealed(corpus) if one.id in got]
        reached, plain = np.array([got[one.id] for one in said]), ours(said)
        table = read_points(MEASURED / f"{corpus}.csv")
        times = [one.params * one.tokens for one in said] / (table.size * table.tokens).max()
        wary = with_copying(plain, by_then(yet_to_save(0.0, share), times))
        claims += scored(f"{corpus}, as sealed", plain, reached)
        claims += scored(f"{corpus}, with copying", wary, reached)
        shares[corpus] = share
    print(f"\n{header('corpus', 'copyable')}")
    for corpus, share in shares.items():
        print(row(corpus, f"{share:.1%}"))
        claims.append(claim(f"{corpus}: copyable", share, ""))
    last_line(claims)


def told_by_pairs(corpus: Corpus) -> float:
    """The share of the loss that copying may tell, by how often tokens follow each other."""
    (name,) = corpus.sources
    windows = Windows(corpus, Data(corpus=corpus.folder.name), seed=0)
    batch = held_out(windows, WINDOWS * windows.context)
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
