"""What do models take from their context, and have they learnt to copy?

    .venv/bin/python bench/what_context_gives.py RUN... [--lab DIR] [--tokens N]

Of each run's last checkpoint, on held-out text of its corpus: the loss of all tokens, of the first
32 of a window and from the 129th on, of tokens that came after the same token before in their
window (a model that copies can tell them) and of the others; and by which share a text of random
tokens costs less when it is read for the second time. Prints a table and, last, one JSON list.
"""

from dataclasses import dataclass
from pathlib import Path

from claims import Claim, arguments, claim, header, last_line, row

from windtunnel.data.windows import Windows
from windtunnel.quantities import about
from windtunnel.train.loop import load_model
from windtunnel.train.run import Run, find_run, open_corpus
from windtunnel.tunnel.scaling.copying import copying_of, held_out, nats_of, seen_before

FIRST, LATE = 32, 128  # positions


@dataclass(frozen=True, kw_only=True)
class Given:
    """Losses in nats/token, by what stands before."""

    every: float
    first: float
    late: float
    seen: float
    unseen: float
    copied: float
    share_seen: float


def main() -> None:
    """Look at every run."""
    parser = arguments(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="id or name of a run")
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--tokens", type=int, default=65_536, help="of held-out text")
    asked = parser.parse_args()
    names = ("all", "first 32", "from 129", "gain", "seen before", "others", "random, again")
    print(header("run", "shape", "tokens", *names))
    claims: list[Claim] = []
    share = 0.0
    for name in asked.runs:
        run = find_run(asked.lab, name)
        found = look_at(run, asked.tokens)
        share = found.share_seen
        model, gain = run.recipe.model, found.first - found.late
        losses = (found.every, found.first, found.late, gain, found.seen, found.unseen)
        cells = [*(f"{loss:.3f}" for loss in losses), f"{-found.copied:+.1%}"]
        shape, tokens = f"{model.width}x{model.depth}", about(run.recipe.total_tokens)
        print(row(run.recipe.name, shape, tokens, *cells), flush=True)
        claims.append(claim(f"{run.recipe.name}: gain", gain, "nats/token"))
        claims.append(claim(f"{run.recipe.name}: copied", found.copied, ""))
    print(f"\n{share:.0%} of the tokens came after the same token before in their window.")
    last_line(claims)


def look_at(run: Run, tokens: int) -> Given:
    """All losses of one run."""
    corpus = open_corpus(run.lab, run.recipe)
    windows = Windows(corpus, run.recipe.data, run.recipe.seed)
    batch = held_out(windows, tokens // len(corpus.sources))
    model = load_model(run)
    losses = nats_of(model.losses, batch.inputs, batch.targets)
    seen = seen_before(batch.inputs.numpy(), batch.targets.numpy())
    copying = copying_of(model.losses, windows)
    assert copying is not None
    return Given(
        every=float(losses.mean()),
        first=float(losses[:, :FIRST].mean()),
        late=float(losses[:, LATE:].mean()),
        seen=float(losses[seen].mean()),
        unseen=float(losses[~seen].mean()),
        copied=copying.saved,
        share_seen=float(seen.mean()),
    )


if __name__ == "__main__":
    main()
