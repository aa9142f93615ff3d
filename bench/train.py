"""Tokens a second of our loop against plain eager fp32 PyTorch and against transformers'
GraniteForCausalLM.

    .venv/bin/python bench/train.py [SIZE...] [--rounds N] [--against FOLDER]

The same shape, batch (8,192 tokens, context 256) and AdamW for all, on random tokens. Each loop
is a process of its own, as its user would start it; they take turns of five steps in a row, as a
training takes them, of which the first is not timed, and a round's ratio is taken within it.
FLOPs a token are exact (`windtunnel.model.shape.flops_per_token`: matrix products only, causal
attention, backward = 2x forward); the peak is this machine's best bf16 product of 1024x1024
matrices, measured between the rounds. Beside it the two floors of a step: its FLOPs over that
peak, and over the memory bandwidth measured in the same run the bytes that move if every product
reads its operands and writes its result once in bf16, attention keeps its weights to itself and
AdamW moves 32 bytes a parameter. With --against, a folder that holds another checkout of this
project, such as the last release, its loop alone takes turns with ours. Each round another loop
begins, for who comes after another's tensors finds the caches full of them. Prints a table and,
last, one JSON list.
"""

import contextlib
import importlib
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from claims import Claim, arguments, claim, end

import windtunnel
from windtunnel.model.roles import multipliers
from windtunnel.model.shape import count, flops_per_token, tensor_shapes
from windtunnel.recipe import Model, Recipe, parse
from windtunnel.train.device import autocast, choose_engine, measured_peak, synchronize
from windtunnel.train.speed import training_step

CONTEXT, BATCH, WARM_UP, IN_A_ROW = 256, 8192, 2, 5
SHAPES = {
    "0.2M": {"width": 64, "depth": 3, "heads": 2, "vocab": 1024},
    "1M": {"width": 128, "depth": 4, "heads": 4, "vocab": 2048},
    "6M": {"width": 256, "depth": 6, "heads": 8, "vocab": 4096},
}
OTHER = "the other checkout"  # whose loop `--against` adds
TARGETS = {"eager fp32": 3.0, "granite": 1.3, OTHER: 1.0}  # times as fast
SHARES = {"0.2M": 0.35, "6M": 0.5}  # of the matrix peak
Step = Callable[[np.ndarray], None]  # learns windows (n, context + 1)


def main() -> None:
    """Measure each size."""
    parser = arguments(__doc__)
    parser.add_argument("sizes", nargs="*", default=list(SHAPES), help="among " + ", ".join(SHAPES))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    given = parser.parse_args()
    # as `windtunnel` sets it: who waits leaves the cores to the others
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    claims: list[Claim] = []
    for size in given.sizes:
        claims += measure(size, given.rounds, given.against)
    end(claims)


def measure(size: str, rounds: int, against: Path | None = None) -> list[Claim]:
    """The loops of one size, in turns: half of the rounds with their processes started in one
    order, half in the other, since of two alike who was started first has been 3% slower.
    """
    recipe = recipe_of(size)
    device = torch.device(choose_engine(recipe).device)
    sources = {"ours": None, OTHER: against} if against else dict.fromkeys(LOOPS)
    rng = np.random.default_rng(0)
    batches = rng.integers(
        0, recipe.model.vocab, (WARM_UP + -(-rounds // 2), BATCH // CONTEXT, CONTEXT + 1)
    )
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    peaks, bandwidth = [], measured_bandwidth(device)
    for order in (list(sources), list(sources)[::-1]):
        loops = {
            name: Loop("ours" if name == OTHER else name, size, sources[name]) for name in order
        }
        for loop in loops.values():
            for batch in batches[:WARM_UP]:
                loop.step(batch)
        turns = deque(order)
        for batch in batches[WARM_UP:]:
            peaks.append(measured_peak(device, torch.bfloat16, seconds=0.1))
            for name in turns:
                seconds[name].append(loops[name].step(batch))
            turns.rotate(1)
        for loop in loops.values():
            loop.end()
    return report(size, recipe.model, seconds, max(peaks), bandwidth)


def recipe_of(size: str) -> Recipe:
    """Of a size, on random tokens."""
    settings = {
        "name": size,
        "model": SHAPES[size] | {"base_width": 64},
        "data": {"corpus": "none", "context": CONTEXT},
        "schedule": {"tokens": "1M"},
        "train": {"batch": BATCH},
    }
    return parse(settings, "bench")


class Loop:
    """A training loop in a process of its own; where a `checkout` is given, by its code."""

    def __init__(self, name: str, size: str, checkout: Path | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, name, size), daemon=True)
        # a process that is spawned looks for modules where its parent does
        before, source = list(sys.path), checkout and str((checkout / "src").resolve())
        sys.path[:0] = [source] if source else []
        self._process.start()
        sys.path[:] = before
        theirs.close()  # so that waiting for a process that has died ends
        found = self._pipe.recv()
        if source and not found.startswith(source):
            sys.exit(f"--against {checkout}: the code in {found} was imported instead")

    def step(self, batch: np.ndarray) -> float:
        """Seconds of one of several steps in a row, the first left out: it finds the caches full
        of another's.
        """
        self._pipe.send(batch)
        return self._pipe.recv()

    def end(self) -> None:
        """Waits until its process has ended."""
        self._pipe.send(None)
        self._process.join()


def serve(pipe: Connection, name: str, size: str) -> None:
    """What the process of a loop does: it answers each batch with the seconds of a step, until
    None comes.
    """
    pipe.send(windtunnel.__file__)
    recipe = recipe_of(size)
    step, device = LOOPS[name](recipe), torch.device(choose_engine(recipe).device)
    while (batch := pipe.recv()) is not None:
        step(batch)
        synchronize(device)
        start = time.perf_counter()
        for _ in range(IN_A_ROW - 1):
            step(batch)
        synchronize(device)
        pipe.send((time.perf_counter() - start) / (IN_A_ROW - 1))


def measured_bandwidth(device: torch.device, seconds: float = 0.5) -> float:
    """Bytes a second, read and written, of the best of repeated copies of 256 MiB."""
    source = torch.zeros(2**26, device=device)
    target, best, until = torch.empty_like(source), float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best


def bytes_of_a_step(shape: Model) -> int:
    """What must move to and from memory if the operands and result of each product, and what
    enters and leaves attention, are read or written once; the weights themselves count for
    nothing.
    """
    matrices = [
        size
        for name, size in tensor_shapes(shape).items()
        if len(size) == 2 and name not in ("embedding", "head")
    ]
    products = sum(out + into for out, into in matrices) + shape.vocab + shape.width
    q, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    forward, read, written = 2 * q + 2 * kv, 3 * q + 2 * kv, q + 2 * kv  # the latter backward
    attention = shape.depth * (forward + read + written)
    return 2 * BATCH * (3 * products + attention) + 32 * count(shape).params_total


def eager(recipe: Recipe) -> Step:
    """What a person writes first: the same decoder in eager fp32 with torch's own fused
    attention, loss and AdamW.
    """
    engine = choose_engine(recipe)
    model = PlainDecoder(recipe.model).to(engine.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, betas=(0.9, 0.95), fused=True)
    return torch_step(model, optimizer, contextlib.nullcontext)


def granite(recipe: Recipe) -> Step:
    """transformers' own model of this architecture, multipliers included, at its best setting:
    bf16 autocast, compiled whole, torch's fused attention and fused AdamW.
    """
    transformers = importlib.import_module("transformers")  # of the extra `bench`
    model, scale = recipe.model, multipliers(recipe.model)
    config = transformers.GraniteConfig(
        vocab_size=model.vocab,
        hidden_size=model.width,
        intermediate_size=model.ffn,
        num_hidden_layers=model.depth,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        embedding_multiplier=scale.embedding,
        residual_multiplier=scale.residual,
        attention_multiplier=scale.attention,
        logits_scaling=1 / scale.logits,
        use_cache=False,
    )
    engine = choose_engine(recipe)
    network = transformers.GraniteForCausalLM(config).to(engine.device)
    network.config._attn_implementation = "sdpa"
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.001, betas=(0.9, 0.95), fused=True)

    class Logits(torch.nn.Module):
        """The model's logits and nothing else."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.network(input_ids=tokens).logits

    compiled = torch.compile(Logits(), dynamic=False) if engine.compiled else Logits()
    return torch_step(compiled, optimizer, partial(autocast, engine.device, engine.precision))


def torch_step(model: Callable, optimizer: torch.optim.Optimizer, context: Callable) -> Step:
    """The loop that everybody writes."""
    (group,) = optimizer.param_groups
    parameters = group["params"]
    device = parameters[0].device

    def step(batch: np.ndarray) -> None:
        tokens = torch.from_numpy(batch).to(device)
        with context():
            logits = model(tokens[:, :-1].contiguous())
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


class PlainDecoder(torch.nn.Module):
    """The same layers in plain torch.nn: for its speed, not its init."""

    def __init__(self, shape: Model) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(shape.vocab, shape.width)
        self.layers = torch.nn.ModuleList(PlainLayer(shape) for _ in range(shape.depth))
        self.norm = torch.nn.RMSNorm(shape.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) @ self.embedding.weight.mT


class PlainLayer(torch.nn.Module):
    """One layer: attention with rotary positions, and a gated feed-forward."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, shape: Model) -> None:
        super().__init__()
        d, self.heads = shape.width, shape.heads
        self.norms = torch.nn.ModuleList(torch.nn.RMSNorm(d) for _ in range(2))
        self.qkv = torch.nn.ModuleList(torch.nn.Linear(d, d, bias=False) for _ in range(3))
        self.output = torch.nn.Linear(d, d, bias=False)
        self.gate, self.up = (torch.nn.Linear(d, shape.ffn, bias=False) for _ in range(2))
        self.down = torch.nn.Linear(shape.ffn, d, bias=False)
        size = d // self.heads
        angles = torch.arange(CONTEXT)[:, None] * 1e4 ** (-torch.arange(0, size, 2) / size)
        self.register_buffer("cos", angles.cos().repeat(1, 2))
        self.register_buffer("sin", angles.sin().repeat(1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norms[0](x)
        q, k, v = (w(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w in self.qkv)
        q, k = self.turned(q), self.turned(k)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).flatten(-2))
        h = self.norms[1](x)
        return x + self.down(torch.nn.functional.silu(self.gate(h)) * self.up(h))

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary positions of (..., context, head size)."""
        low, high = x.chunk(2, -1)
        return x * self.cos + torch.cat([-high, low], -1) * self.sin


def report(
    size: str, shape: Model, seconds: dict[str, list[float]], peak: float, bandwidth: float
) -> list[Claim]:
    """What is printed of a size, from the seconds of each loop's rounds; `peak` in FLOP/s,
    `bandwidth` in bytes a second.
    """
    flops = flops_per_token(shape, CONTEXT)
    arithmetic, moved = BATCH * flops / peak, bytes_of_a_step(shape) / bandwidth
    held = count(shape)
    print(
        f"\n{size}: {held.params_total:,} parameters ({held.params:,} without embedding), "
        f"{flops:,} FLOPs a token; peak {peak / 1e9:.0f} GFLOP/s, memory {bandwidth / 1e9:.0f} GB/s"
        f"\n  floors of a step: arithmetic {arithmetic * 1e3:.1f} ms, bytes {moved * 1e3:.1f} ms"
    )
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(
            f"  {name:12} {BATCH / middle:10,.0f} tokens/s  {middle * 1e3:7.1f} ms a step  "
            f"{arithmetic / middle:6.1%} of the bf16 matrix peak"
        )
    claims = []
    for other, target in TARGETS.items():
        if other not in seconds:
            continue
        pairs = zip(seconds[other], seconds["ours"], strict=True)
        ratios = [theirs / ours for theirs, ours in pairs]
        value = round(statistics.median(ratios), 3)
        low, _, high = statistics.quantiles(ratios, n=4)
        print(
            f"  ours is {value:.2f}x {other} (quartiles {low:.2f} to {high:.2f}; target {target})"
        )
        what = f"{size}: speed over {other}"
        # against itself, half of all medians are below 1
        reached = high if other == OTHER else value
        claims.append(claim(what, value, "x", target, reached >= target, machine()))
    share, target = round(arithmetic / statistics.median(seconds["ours"]), 4), SHARES.get(size)
    ok = None if target is None else share >= target
    what = f"{size}: share of the bf16 matrix peak"
    return [*claims, claim(what, share, "share", target, ok, machine())]


def machine() -> str:
    """The processor, its cores, and torch's version."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as info:
        models = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}"


LOOPS: dict[str, Callable[[Recipe], Step]] = {
    "ours": training_step,
    "eager fp32": eager,
    "granite": granite,
}


if __name__ == "__main__":
    main()
