"""What do products in fewer bits cost of the loss?

    .venv/bin/python bench/precisions.py CORPUS [--lab DIR] [--seeds N] [--size WxD] [--tokens 2M]

Trains a model in every precision, from the same initial weights and on the same text, with several
seeds (init and order of the text); each run decays over its last tenth. Prints the validation
losses, the differences from bf16 within a seed with their 90% t-interval, and, last, one JSON list.
What was trained already is not trained again.
"""

from pathlib import Path

from claims import Claim, arguments, claim, header, last_line, row
from train import machine
from wsd_cosine import interval

from windtunnel.cli.display import display
from windtunnel.data.shards import Corpus
from windtunnel.model.shape import count
from windtunnel.quantities import parse_tokens
from windtunnel.recipe import PRECISIONS, Recipe, parse
from windtunnel.train.loop import Watch, train
from windtunnel.train.run import create
from windtunnel.tunnel.design import SIZE
from windtunnel.tunnel.study import validation_at

AGAINST = "bf16"
SETTLED = [name for name in PRECISIONS if name != "auto"]


def main() -> None:
    """Train what is missing, and compare."""
    parser = arguments(__doc__)
    parser.add_argument("corpus")
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", default="128x4")
    parser.add_argument("--tokens", default="2M")
    given = parser.parse_args()
    corpus = Corpus.open(given.lab / "corpora" / given.corpus)
    tokens = parse_tokens(given.tokens)
    losses: dict[str, list[float]] = {name: [] for name in SETTLED}
    for seed in range(given.seeds):
        for name, found in losses.items():
            recipe = recipe_of(corpus, given.size, tokens, name, seed)
            found.append(loss_of(given.lab, corpus, recipe))
    last_line(report(recipe_of(corpus, given.size, tokens, AGAINST, 0), losses))


def recipe_of(corpus: Corpus, size: str, tokens: int, precision: str, seed: int) -> Recipe:
    """A run of its own."""
    width, depth = SIZE.parse("--size", size)
    values = {
        "name": f"{precision}-seed{seed}",
        "seed": seed,
        "model": {
            "width": width,
            "depth": depth,
            "heads": max(1, width // 32),
            "vocab": corpus.manifest.vocab,
            "base_width": 32,
        },
        "data": {"corpus": corpus.folder.name, "context": 256},
        "schedule": {"tokens": tokens, "decay": "10%"},
        "train": {"batch": 2048, "evaluate_every": 0, "precision": precision},
    }
    return parse(values, "the comparison's recipe")


def loss_of(lab: Path, corpus: Corpus, recipe: Recipe) -> float:
    """Validation loss at the end, nats/token."""
    run = create(lab, recipe, corpus)
    with display() as shown:
        train(run, corpus, Watch(say=shown.say, step=shown.training(recipe.name)))
    return validation_at(run, run.recipe.total_tokens).loss


def report(recipe: Recipe, losses: dict[str, list[float]]) -> list[Claim]:
    """The losses, and the differences within a seed."""
    seeds = range(len(losses[AGAINST]))
    print(f"{count(recipe.model).params:,} parameters, {recipe.total_tokens:,} tokens\n")
    print(header("precision", *(f"seed {seed}" for seed in seeds), f"above {AGAINST}"))
    claims = []
    for name, found in losses.items():
        above = [mine - theirs for mine, theirs in zip(found, losses[AGAINST], strict=True)]
        mean, half = interval(above)
        print(row(name, *(f"{loss:.4f}" for loss in found), f"{mean:+.4f} ± {half:.4f}"))
        ends = [round(mean - half, 5), round(mean + half, 5)]
        what = f"loss in {name} above {AGAINST}"
        claims.append(claim(what, round(mean, 5), "nats/token", machine=machine(), interval90=ends))
    return claims


if __name__ == "__main__":
    main()
