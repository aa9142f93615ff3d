"""Is a decayed WSD branch as good as a cosine run of the same length? (MiniCPM paper, section
4.3: not worse.)

    .venv/bin/python bench/wsd_cosine.py [--lab DIR] [--seeds N] [--tokens 1M 2M 4M]

On the core corpus, a model of 272,000 parameters, per seed (init and data order): one stem with a
branch at each length (decay: 10% of the stem, linear to zero, and the paper's exponential to a
tenth), and a cosine from scratch to a tenth (the paper's baseline) and one to zero, as long as
stem and decay together. Validation loss of all seven sources. What has been run already is not
run again. Needs the core corpus, which it fetches. Prints a table and, last, one JSON list.
"""

import math
from itertools import product
from pathlib import Path

from claims import Claim, arguments, claim, end, header, row
from scipy import stats

from windtunnel.cli.display import display
from windtunnel.data.build import build
from windtunnel.data.shards import Corpus
from windtunnel.data.sources import fetch
from windtunnel.quantities import about, parse_tokens
from windtunnel.recipe import Recipe, parse
from windtunnel.train.branch import branch
from windtunnel.train.loop import Watch, train
from windtunnel.train.run import Run, create
from windtunnel.tunnel.study import validation_at

DECAY = 0.1
ARMS = ("WSD linear to 0", "WSD exponential to 0.1", "cosine to 0.1", "cosine to 0")


def main() -> None:
    """Train what is missing, and compare."""
    parser = arguments(__doc__)
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", nargs="+", default=["1M", "2M", "4M"])
    given = parser.parse_args()
    lengths = [parse_tokens(text) for text in given.tokens]
    corpus = core(given.lab)
    losses = [measure(given.lab, corpus, seed, lengths) for seed in range(given.seeds)]
    end(report(lengths, losses))


def core(lab: Path) -> Corpus:
    """The core corpus of a lab, fetched and built where it is not there."""
    folder = lab / "corpora" / "core"
    if (folder / "manifest.json").exists():
        return Corpus.open(folder)
    fetched = fetch(["core"], lab / "downloads")
    return build(folder, {f.source.name: f.documents() for f in fetched}, vocab=2048)


def new_lab(folder: Path, corpus: Corpus) -> Path:
    """A lab that holds this corpus and no runs."""
    (folder / "corpora").mkdir(parents=True)
    (folder / "corpora" / corpus.folder.name).symlink_to(corpus.folder.resolve())
    return folder


def measure(lab: Path, corpus: Corpus, seed: int, lengths: list[int]) -> dict[str, list[float]]:
    """Loss of every arm at every length."""
    stem_recipe = recipe(seed, max(lengths), lengths)
    with display() as shown:

        def done(run: Run) -> Run:
            train(
                run,
                corpus,
                Watch(say=shown.say, step=shown.training(f"seed {seed} {run.recipe.name}")),
            )
            return run

        def final(run: Run) -> float:
            return validation_at(done(run), run.recipe.total_tokens).loss

        stem = done(create(lab, stem_recipe, corpus))
        losses: dict[str, list[float]] = {arm: [] for arm in ARMS} | {"stable": []}
        for length in lengths:
            decay = round(length * DECAY)
            linear = branch(stem, corpus, length, decay, name=f"linear-{about(length)}")
            paper = branch(
                stem, corpus, length, decay, "exponential", 0.1, name=f"exponential-{about(length)}"
            )
            losses[ARMS[0]].append(final(linear))
            losses[ARMS[1]].append(final(paper))
            for arm, floor in zip(ARMS[2:], (0.1, 0.0), strict=True):
                losses[arm].append(final(create(lab, cosine(stem_recipe, linear, floor), corpus)))
            losses["stable"].append(validation_at(stem, linear.at_tokens or 0).loss)
    return losses


def recipe(seed: int, tokens: int, branch_points: list[int]) -> Recipe:
    """A stem."""
    values = {
        "name": f"stem-seed{seed}",
        "seed": seed,
        "model": {"width": 64, "depth": 3, "heads": 2, "vocab": 2048, "base_width": 32},
        "data": {"corpus": "core", "context": 256},
        "schedule": {"tokens": tokens, "warmup": "40k", "decay": 0},
        "train": {"batch": 2048, "evaluate_every": 0, "branch_points": branch_points},
    }
    return parse(values, "the study's recipe")


def cosine(stem: Recipe, like: Run, floor: float) -> Recipe:
    """A cosine from scratch, as long as a branch."""
    tokens = like.recipe.total_tokens
    return stem.change(
        name=f"cosine-{floor}-{about(tokens)}-seed{stem.seed}",
        schedule={"tokens": tokens, "kind": "cosine", "floor": floor},
        train={"branch_points": ()},
    )


def report(lengths: list[int], losses: list[dict[str, list[float]]]) -> list[Claim]:
    """The losses, and the differences within a seed."""
    print(f"validation loss, nats/token, mean of {len(losses)} seeds\n")
    print(header("tokens", "stable", *ARMS))
    for i, length in enumerate(lengths):
        means = [sum(seed[arm][i] for seed in losses) / len(losses) for arm in ("stable", *ARMS)]
        print(row(f"{about(length)} + 10%", *(f"{mean:.4f}" for mean in means)))
    print("\ndifference within a seed, mean with its 90% t-interval\n")
    pairs = list(product(ARMS[2:], ARMS[:2]))
    print(header("tokens", *(f"{wsd} − {cos}" for cos, wsd in pairs)))
    claims = []
    for i, length in enumerate(lengths):
        cells = []
        for cos, wsd in pairs:
            mean, half = interval([seed[wsd][i] - seed[cos][i] for seed in losses])
            cells.append(f"{mean:+.4f} ± {half:.4f}")
            # The paper's claim is about its own baseline; the interval must not lie above zero.
            claimed = cos == ARMS[2]
            claims.append(
                claim(
                    f"{wsd} minus {cos} at {about(length)} + 10%",
                    round(mean, 4),
                    "nats/token",
                    0 if claimed else None,
                    mean - half <= 0 if claimed else None,
                    interval90=[round(mean - half, 4), round(mean + half, 4)],
                )
            )
        print(row(f"{about(length)} + 10%", *cells))
    return claims


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the 90% t-interval."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.inf
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    return mean, float(stats.t.ppf(0.95, len(values) - 1)) * spread


if __name__ == "__main__":
    main()
