"""What is a mixture of experts worth that a trained model is turned into? (MiniCPM paper, section
7.3.)

    .venv/bin/python bench/upcycle.py [--lab DIR] [--seeds N] [--tokens 1M]

On the core corpus, per seed: a stem of 142,000 parameters (and 131,000 of embeddings) to
`--tokens`. From there, each to the end of a decay: the stem itself for as many tokens again; the
stem for as many FLOPs as the experts need; 8 experts of which a token goes through 2, made of the
stem, for as many tokens again; and such experts from scratch for all tokens together. Then the
time of a step against that of a model with a feed-forward twice as wide, which has the same
FLOPs. Needs the core corpus, which it fetches. Prints a table and, last, one JSON list.
"""

import statistics
import time
from pathlib import Path

from claims import arguments, claim, header, last_line, row
from wsd_cosine import core, interval, recipe

from windtunnel.cli.display import display
from windtunnel.data.shards import Corpus
from windtunnel.family.upcycle import Asked, upcycle
from windtunnel.model.shape import active_params, count, flops_per_token
from windtunnel.quantities import Length, about, parse_tokens
from windtunnel.recipe import Recipe
from windtunnel.train.branch import branch
from windtunnel.train.device import choose_engine
from windtunnel.train.loop import Watch, train
from windtunnel.train.run import Run, create
from windtunnel.train.speed import timed_step
from windtunnel.tunnel.study import validation_at

DECAY = 0.2  # of the tokens after the stem
ARMS = ("dense, as many tokens", "dense, as many FLOPs", "experts", "experts from scratch")
_ROUNDS = 9


def main() -> None:
    """Train what is missing, and compare."""
    parser = arguments(__doc__)
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", default="1M")
    given = parser.parse_args()
    tokens, corpus = parse_tokens(given.tokens), core(given.lab)
    losses = [measure(given.lab, corpus, seed, tokens) for seed in range(given.seeds)]
    dense = recipe(0, 2 * tokens, [])
    sparse = with_experts(dense)
    held = count(sparse.model)
    active = active_params(sparse.model)
    print(
        f"parameters without embeddings: {about(count(dense.model).params)}; with experts "
        f"{about(held.params)}, of which {about(active)} active\n"
    )
    print(f"validation loss, nats/token, mean of {given.seeds} seeds\n")
    print(header("run", "loss", "experts minus it (90%)"))
    claims = []
    for arm in ARMS:
        level = f"{statistics.mean(seed[arm] for seed in losses):.4f}"
        if arm == "experts":
            print(row(arm, level, ""))
            continue
        mean, half = interval([seed["experts"] - seed[arm] for seed in losses])
        print(row(arm, level, f"{mean:+.4f} ± {half:.4f}"))
        claims.append(claim(f"upcycled minus {arm}", round(mean, 4), "nats/token"))
    ratio = slower(sparse, dense.change(model={"ffn": 2 * dense.model.ffn}))
    print(f"\na step of the experts takes {ratio:.2f} times that of a feed-forward twice as wide")
    what = "time of a step over that of a dense one of the same FLOPs"
    claims.append(claim(what, round(ratio, 3), "times", machine="this one"))
    last_line(claims)


def with_experts(dense: Recipe) -> Recipe:
    """8 experts, of which a token goes through 2."""
    return dense.change(model={"experts": 8, "experts_per_token": 2})


def measure(lab: Path, corpus: Corpus, seed: int, tokens: int) -> dict[str, float]:
    """Final loss of every arm."""
    plain = recipe(seed, 2 * tokens, [])
    cost = flops_per_token(with_experts(plain).model, 256) / flops_per_token(plain.model, 256)
    ends = {ARMS[0]: 2 * tokens, ARMS[1]: round(tokens * (1 + cost))}
    starts = {arm: round(tokens + (end - tokens) * (1 - DECAY)) for arm, end in ends.items()}
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

        stem = create(lab, recipe(seed, max(starts.values()), [tokens, *starts.values()]), corpus)
        done(stem)
        losses = {
            arm: final(branch(stem, corpus, start, ends[arm] - start, name=f"{arm}-seed{seed}"))
            for arm, start in starts.items()
        }
        at = stem.recipe.whole_steps(tokens)
        asked = Asked(tokens=tokens, decay=Length(share=DECAY), at=at, name=f"experts-seed{seed}")
        losses["experts"] = final(upcycle(stem, corpus, asked))
        fresh = with_experts(plain).change(
            name=f"fresh-experts-seed{seed}",
            schedule={"tokens": 2 * tokens, "decay": round(DECAY * tokens)},
        )
        losses["experts from scratch"] = final(create(lab, fresh, corpus))
    return losses


def slower(one: Recipe, other: Recipe) -> float:
    """The time of a step of one over that of the other, taken in turn."""
    steps = [timed_step(one), timed_step(other)]
    clock = time.process_time if choose_engine(one).device == "cpu" else time.perf_counter
    return statistics.median(steps[0](clock) / steps[1](clock) for _ in range(_ROUNDS))


if __name__ == "__main__":
    main()
