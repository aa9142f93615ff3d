"""How many small models a device trains at once, and how fast: members of one population against
one after the other.

    .venv/bin/python bench/population.py [--sizes "50k, batch 512"] [--members 1,2,4,8] [--rounds 9]

For each shape and number of members P: steps of P members together alternate with steps of one
model in one process; the ratio is P times the time of the one over the time of the P. On a CPU
one thread, as a worker of a fleet has, by the time of this process; on a GPU up to 9M parameters
and 16,384 tokens a step, where one model alone is compiled and replayed from CUDA graphs too.
Beside it the two floors of a member's step: its FLOPs over the matrix peak measured in the same
run, and the bytes that AdamW must move (32 a parameter) over the memory bandwidth measured in the
same run. Trials an hour: of 20 tokens a parameter. Prints a table and, last, one JSON list.
"""

import os
import statistics
import time

import torch
from claims import Claim, arguments, claim, header, last_line, row
from train import machine, measured_bandwidth

from windtunnel.model.shape import count, flops_per_token
from windtunnel.recipe import Recipe, parse
from windtunnel.train.device import choose_engine, measured_peak
from windtunnel.train.speed import timed_step

# By device: shape, context, and tokens a step.
SHAPES = {
    "cpu": {
        "50k, batch 512": ({"width": 32, "depth": 2, "heads": 1, "vocab": 1024}, 256, 512),
        "50k, batch 2048": ({"width": 32, "depth": 2, "heads": 1, "vocab": 1024}, 256, 2048),
        "0.2M, batch 512": ({"width": 64, "depth": 3, "heads": 2, "vocab": 1024}, 256, 512),
        "0.2M, batch 2048": ({"width": 64, "depth": 3, "heads": 2, "vocab": 1024}, 256, 2048),
    },
    "cuda": {
        "50k, batch 2048": ({"width": 32, "depth": 2, "heads": 1, "vocab": 1024}, 256, 2048),
        "1M, batch 8192": ({"width": 128, "depth": 4, "heads": 4, "vocab": 2048}, 256, 8192),
        "9M, batch 16384": ({"width": 320, "depth": 6, "heads": 5, "vocab": 6144}, 512, 16384),
    },
}
MEMBERS = {"cpu": "1,2,4,8", "cuda": "1,2,4,8,16,32,64"}
TARGET = 6.0  # of 9M members on a GPU, 16 to 64 of them


def main() -> None:
    """Measure each shape."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = arguments(__doc__)
    parser.add_argument("--sizes", default=";".join(SHAPES[device]), help="separated by semicolons")
    parser.add_argument("--members", default=MEMBERS[device])
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    if device == "cpu":
        torch.set_num_threads(1)
        print("no GPU: its shapes are skipped, their claim is not measured")
    kind = torch.device(device)
    peak, bandwidth = measured_peak(kind, torch.bfloat16), measured_bandwidth(kind)
    print(
        f"{machine()}; matrix peak {peak / 1e9:,.0f} GFLOP/s, memory {bandwidth / 1e9:,.1f} GB/s "
        f"({device})"
    )
    members = [int(text) for text in given.members.split(",")]
    claims = []
    for name in given.sizes.split(";"):
        model, context, batch = SHAPES[device][name]
        recipe = recipe_of(name, model, context, batch)
        claims += measure(recipe, members, given.rounds, peak, bandwidth)
    last_line(claims)


def recipe_of(name: str, model: dict, context: int, batch: int) -> Recipe:
    """Of a shape, on random tokens."""
    settings = {
        "name": name,
        "model": model | {"base_width": 64},
        "data": {"corpus": "none", "context": context},
        "schedule": {"tokens": "1M"},
        "train": {"batch": batch},
    }
    return parse(settings, "bench")


def measure(
    recipe: Recipe, members: list[int], rounds: int, peak: float, bandwidth: float
) -> list[Claim]:
    """A row and a claim for each number of members; `peak` in FLOP/s, `bandwidth` in bytes a
    second.
    """
    name, shape, batch = recipe.name, recipe.model, recipe.train.batch
    flops = flops_per_token(shape, recipe.data.context) * batch
    arithmetic, moved = flops / peak, 32 * count(shape).params_total / bandwidth
    print(
        f"\n{name}: {count(shape).params_total:,} parameters; floors of a member's step: "
        f"arithmetic {arithmetic * 1e3:.3f} ms, optimiser's bytes {moved * 1e3:.3f} ms"
    )
    times = "times one after the other"
    print(header("members", "ms a member's step", "of the matrix peak", times, "trials an hour"))
    clock = time.process_time if choose_engine(recipe).device == "cpu" else time.perf_counter
    alone, claims = timed_step(recipe), []
    for many in members:
        together = alone if many == 1 else timed_step(recipe, many)
        pairs = [(alone(clock), together(clock)) for _ in range(rounds)]
        seconds = statistics.median(b for _, b in pairs) / many
        ratios = [many * a / b for a, b in pairs]
        gain, quarters = statistics.median(ratios), statistics.quantiles(ratios, n=4)
        share = flops / seconds / peak
        trials = 3600 / (seconds * 20 * count(shape).params_total / batch)
        gained = f"{gain:.2f} ({quarters[0]:.2f} to {quarters[2]:.2f})"
        print(
            row(many, f"{seconds * 1e3:.3f}", f"{share:.1%}", gained, f"{trials:,.0f}"), flush=True
        )
        aimed = name.startswith("9M") and many >= 16
        claims.append(
            claim(
                f"{name}: {many} members over one after the other",
                round(gain, 3),
                "x",
                TARGET if aimed else None,
                gain >= TARGET if aimed else None,
                machine(),
                peak_share=round(share, 4),
            )
        )
    return claims


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
