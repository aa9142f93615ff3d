"""Does a longer decay mend what `bench/wsd_cosine.py` found at 4M tokens, where a decay of 10%
ends above cosine?

    .venv/bin/python bench/decay_length.py [--lab DIR] [--seeds N]

From the stems of `wsd_cosine.py` in the same lab: branches that all end at 4.4M tokens, with
decays of 0.4M, 0.88M and 1.76M tokens, linear to zero and exponential to a tenth, against the
cosine runs of that length. Needs the core corpus, which it fetches. Prints a table and, last, one
JSON list.
"""

from pathlib import Path

from claims import arguments, claim, header, last_line, row
from wsd_cosine import core, cosine, interval, recipe

from windtunnel.cli.display import display
from windtunnel.data.shards import Corpus
from windtunnel.quantities import about
from windtunnel.recipe import DecayShapeName
from windtunnel.train.branch import branch
from windtunnel.train.loop import Watch, train
from windtunnel.train.run import Run, create
from windtunnel.tunnel.study import validation_at

STEM, TOTAL = 4_000_000, 4_400_000
DECAYS = (400_000, 880_000, 1_760_000)
SHAPES: tuple[tuple[DecayShapeName, float], ...] = (("linear", 0.0), ("exponential", 0.1))


def main() -> None:
    """Train what is missing, and compare."""
    parser = arguments(__doc__)
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    corpus = core(given.lab)
    losses = [measure(given.lab, corpus, seed) for seed in range(given.seeds)]
    print(
        f"validation loss at {about(TOTAL)} tokens, minus that of a cosine to 0.1, mean of "
        f"{given.seeds} seeds ± 90%\n"
    )
    print(header("decay", "linear to 0", "exponential to 0.1"))
    claims = []
    for decay in DECAYS:
        cells = []
        for shape, _ in SHAPES:
            mean, half = interval([seed[shape, decay] - seed["cosine", 0] for seed in losses])
            cells.append(f"{mean:+.4f} ± {half:.4f}")
            what = f"{shape} decay of {about(decay)} minus cosine"
            claims.append(claim(what, round(mean, 4), "nats/token"))
        print(row(f"{about(decay)} ({decay / TOTAL:.0%})", *cells))
    last_line(claims)


def measure(lab: Path, corpus: Corpus, seed: int) -> dict[tuple[str, int], float]:
    """Loss by (shape, decay), and of the cosine run as ("cosine", 0)."""
    stem_recipe = recipe(seed, STEM, [1_000_000, 2_000_000, STEM])
    with display() as shown:

        def final(run: Run) -> float:
            train(
                run,
                corpus,
                Watch(say=shown.say, step=shown.training(f"seed {seed} {run.recipe.name}")),
            )
            return validation_at(run, run.recipe.total_tokens).loss

        stem = create(lab, stem_recipe, corpus)
        train(stem, corpus, Watch(say=shown.say, step=shown.training(f"seed {seed} stem")))
        losses, like = {}, stem
        for shape, floor in SHAPES:
            for decay in DECAYS:
                like = branch(
                    stem,
                    corpus,
                    TOTAL - decay,
                    decay,
                    shape,
                    floor,
                    name=f"{shape}-over-{about(decay)}",
                )
                losses[shape, decay] = final(like)
        losses["cosine", 0] = final(create(lab, cosine(stem_recipe, like, 0.1), corpus))
    return losses


if __name__ == "__main__":
    main()
