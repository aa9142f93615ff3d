"""One big model on one GPU: tokens a second, and the share of the maker's dense bf16 peak, at
context 4096.

    .venv/bin/python bench/big.py [SIZE...] [--seconds 20]      # about 3 minutes a size on an H200

The loop's own step (bf16 with fp32 weights, layers compiled, replayed from CUDA graphs, AdamW) on
random tokens; of NARROWED once more with the products of layers in 8 bits, whose share is of the
same peak. FLOPs a token are exact (`windtunnel.model.shape.flops_per_token`: matrix products
only, causal attention, backward = 2x forward). The floors: arithmetic over the peak, and the
bytes that the optimiser and the weights of each part must move over the memory bandwidth measured
in the same run. Prints a table and, last, one JSON list; without a GPU it says that it was
skipped. That the loss is that of the plain reference is held by bench/gpu_check.py.
"""

from collections.abc import Sequence

import torch
from claims import Claim, arguments, claim, header, last_line, row
from train import machine, measured_bandwidth

from windtunnel.model.shape import count, flops_per_token
from windtunnel.recipe import Recipe, parse
from windtunnel.train.device import choose_engine, matrix_peak, measured_peak
from windtunnel.train.speed import tokens_per_second

CONTEXT = 4096
# Shape, tokens a step, and the share of the peak to reach. The second and third are the paper's
# MiniCPM-1.2B and 2.4B.
SHAPES = {
    "0.5B": (
        {"width": 1280, "depth": 24, "heads": 20, "ffn": 3200, "vocab": 32_768},
        131_072,
        0.50,
    ),
    "1.2B": (
        {"width": 1536, "depth": 52, "heads": 24, "kv_heads": 8, "ffn": 3840, "vocab": 73_440},
        131_072,
        0.50,
    ),
    "2.4B": (
        {"width": 2304, "depth": 40, "heads": 36, "ffn": 5760, "vocab": 122_753},
        65_536,
        0.55,
    ),
}
NARROWED = ("2.4B",)
PUBLISHED = (
    "published: llm-foundry 1B, 8x H100: 45.5k tokens/s a GPU, 41.8%; OLMo-core 1B, H100: 46k, 40%"
)


def main() -> None:
    """Measure each size, where there is a GPU."""
    parser = arguments(__doc__)
    parser.add_argument("sizes", nargs="*", default=list(SHAPES), help="among " + ", ".join(SHAPES))
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: there is no GPU here")
        last_line([])
        return
    device = torch.device("cuda")
    bandwidth, peak = measured_bandwidth(device), measured_peak(device, torch.bfloat16, seconds=2)
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}: measured "
        f"{peak / 1e12:.0f} TFLOP/s of matrices, {bandwidth / 1e12:.2f} TB/s of memory\n{PUBLISHED}"
    )
    shares = ("of the peak", "of the measured peak", "floor: arithmetic", "floor: bytes")
    print(header("size", "parameters", "tokens/s", *shares, "step", "memory", "at once"))
    ways = ways_of(given.sizes)
    last_line(measure(*way, given.seconds, peak, bandwidth) for way in ways)


def ways_of(sizes: Sequence[str]) -> list[tuple[str, str]]:
    """Each size with every precision that it is measured in."""
    every = [(size, "bf16") for size in sizes]
    return every + [(size, "fp8") for size in sizes if size in NARROWED]


def recipe_of(size: str, device: str = "auto", precision: str = "auto") -> Recipe:
    """Of one of the shapes, for a kind of device."""
    model, batch, _ = SHAPES[size]
    return parse(
        {
            "name": size,
            "model": model,
            "data": {"corpus": "none", "context": CONTEXT},
            "schedule": {"tokens": "10M"},
            "train": {"batch": batch, "device": device, "precision": precision},
        },
        "bench",
    )


def measure(size: str, precision: str, seconds: float, peak: float, bandwidth: float) -> Claim:
    """One row, and the claim of a size: `peak` in FLOP/s and `bandwidth` in bytes a second as they
    were measured.
    """
    recipe, target = recipe_of(size, precision=precision), SHAPES[size][2]
    batch = recipe.train.batch
    engine, shape = choose_engine(recipe), recipe.model
    torch.cuda.reset_peak_memory_stats()
    taken = batch / tokens_per_second(recipe, seconds)
    params, flops = count(shape).params_total, flops_per_token(shape, CONTEXT) * batch
    parts = -(-batch // engine.micro_batch)
    # the optimiser: 32 a parameter; each part: weights read and cast, gradients added
    moved = params * (32 + parts * (4 + 2 + 2 * 2 + 2 + 4 + 4))
    share = flops / taken / matrix_peak(engine)
    print(
        row(
            f"{size}, {precision}",
            f"{params:,}",
            f"{batch / taken:,.0f}",
            f"{share:.1%}",
            f"{flops / taken / peak:.1%}",
            f"{flops / peak * 1e3:.0f} ms",
            f"{moved / bandwidth * 1e3:.0f} ms",
            f"{taken * 1e3:.0f} ms",
            f"{torch.cuda.max_memory_allocated() / 2**30:.0f} GiB",
            f"{engine.micro_batch} tokens{', layers again' if engine.recompute else ''}",
        ),
        flush=True,
    )
    torch.cuda.empty_cache()
    return claim(
        f"{size} in {precision} at context {CONTEXT}: share of the dense bf16 peak",
        round(share, 4),
        "share",
        target,
        share >= target,
        f"{machine()}, {torch.cuda.get_device_name()}",
        tokens_per_s=round(batch / taken),
    )


if __name__ == "__main__":
    main()
