"""Every fast path of training against the plain one in fp32, on a GPU.

    .venv/bin/python bench/gpu_check.py [--device cpu]      # about 4 minutes on a GPU; --device cpu: small, to try it

For each: the relative error (of a loss, of gradients by role, of weights after steps), beside its
bound. Plain is eager fp32. Prints a table and, last, one JSON list; without a GPU it says that it
was skipped.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from train import machine

from windtunnel.model.loss import token_losses
from windtunnel.model.roles import role_of
from windtunnel.model.shape import count
from windtunnel.recipe import Recipe, parse
from windtunnel.results.run import Engine
from windtunnel.train.device import choose_engine
from windtunnel.train.step import Step

Tensors = dict[str, torch.Tensor]


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    given = arguments.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("skipped: there is no GPU here")
        print(json.dumps([]))
        return
    small = given.device == "cpu"
    recipe = recipe_of(given.device, small)
    print(
        f"{machine()}, {given.device}; {count(recipe.model).params_total:,} parameters, "
        f"{recipe.train.batch} tokens a step"
    )
    fast = choose_engine(recipe)
    plain = fast.model_copy(update={"precision": "fp32", "compiled": False, "recompute": False})
    torch.set_float32_matmul_precision("highest")
    claims: list[dict[str, object]] = []

    def hold(claim: str, value: float, bound: float) -> None:
        claims.append(
            {
                "claim": claim,
                "value": value,
                "unit": "relative error",
                "target": bound,
                "ok": value <= bound,
                "machine": machine(),
            }
        )
        print(
            f"| {claim} | {value:.2e} | {bound:.0e} | {'ok' if value <= bound else 'FAILS'} |",
            flush=True,
        )

    print("| fast path, against plain fp32 | relative error | bound | |\n|---|---|---|---|")
    gradients(
        recipe, plain, replace(fast, precision="fp32"), "compiled, captured, fp32", 1e-4, hold
    )
    gradients(
        recipe, plain, replace(fast, precision="bf16"), "compiled, captured, bf16", 3e-2, hold
    )
    gradients(
        recipe, plain, replace(plain, micro_batch=recipe.data.context), "in parts", 1e-5, hold
    )
    gradients(recipe, plain, replace(plain, recompute=True), "layers computed again", 1e-6, hold)
    gradients(
        recipe,
        plain,
        replace(fast, precision="fp32", recompute=True),
        "again, compiled, captured",
        1e-4,
        hold,
    )
    experts = recipe.change(model={"experts": 8})
    gradients(
        experts,
        plain,
        replace(fast, precision="bf16"),
        "8 experts, compiled, captured, bf16",
        5e-2,
        hold,
    )
    steps(recipe, plain, replace(fast, precision="fp32"), hold)
    population(recipe, replace(fast, precision="fp32"), plain, hold)
    large_vocabulary(given.device, small, hold)
    long_run(recipe, plain, replace(fast, precision="bf16"), 20 if small else 200, hold)
    print(json.dumps(claims))
    sys.exit(0 if all(claim["ok"] for claim in claims) else 1)


def recipe_of(device: str, small: bool) -> Recipe:
    model = (
        {"width": 64, "depth": 2, "heads": 2, "vocab": 512}
        if small
        else {"width": 512, "depth": 8, "heads": 8, "kv_heads": 4, "vocab": 8192}
    )
    settings = {
        "name": "check",
        "model": model | {"base_width": 64},
        "data": {"corpus": "none", "context": 64 if small else 1024},
        "schedule": {"tokens": "10M"},
        "optimizer": {"lr": 0.005},
        "train": {"batch": 512 if small else 16384, "device": device},
    }
    return parse(settings, "bench")


def text(recipe: Recipe, seed: int, many: int) -> np.ndarray:
    """Windows that can be learnt: each token is one of four that its predecessor allows. (many,
    n, context + 1).
    """
    rng = np.random.default_rng(7)
    follow = rng.integers(0, recipe.model.vocab, (recipe.model.vocab, 4))
    rng = np.random.default_rng(seed)
    n, context = recipe.train.batch // recipe.data.context, recipe.data.context
    tokens = np.empty((many, n, context + 1), np.int64)
    tokens[..., 0] = rng.integers(0, recipe.model.vocab, (many, n))
    for t in range(context):
        tokens[..., t + 1] = follow[tokens[..., t], rng.integers(0, 4, (many, n))]
    return tokens


def gradients(
    recipe: Recipe, plain: Engine, fast: Engine, name: str, bound: float, hold: Callable[..., None]
) -> None:
    """Loss and gradient of one batch; the fast one after enough calls to be captured."""
    batch = text(recipe, 0, 1)[0]
    (loss, expected), (fast_loss, found) = (
        once(Step([recipe], engine), batch) for engine in (plain, fast)
    )
    hold(f"{name}: loss", abs(fast_loss - loss) / loss, bound)
    for role in sorted({role_of(key) for key in expected}):
        pairs = [(found[key], expected[key]) for key in expected if role_of(key) == role]
        hold(f"{name}: gradient of {role}", distance(pairs), bound)


def once(step: Step, batch: np.ndarray) -> tuple[float, Tensors]:
    for _ in range(5):
        step.optimizer.zero_grad()
        loss = step.gradient(batch)
    return float(loss), {
        n: p.grad.detach().clone() for n, p in step.model.named_parameters() if p.grad is not None
    }


def trained(
    recipes: list[Recipe], engine: Engine, batches: np.ndarray
) -> tuple[Step, torch.Tensor]:
    """The step after all batches, (many, n, context + 1), and its losses."""
    step, losses = Step(recipes, engine), []
    for batch in batches:
        shape = (len(recipes), *batch.shape)
        losses.append(
            step.gradient(batch if len(recipes) == 1 else np.broadcast_to(batch, shape).copy())
        )
        step.update([1.0] * len(recipes))
    return step, torch.stack(losses).cpu()


def steps(recipe: Recipe, plain: Engine, fast: Engine, hold: Callable[..., None]) -> None:
    """Ten steps with the compiled, captured optimiser."""
    batches = text(recipe, 1, 10)
    (expected, _), (found, _) = (trained([recipe], engine, batches) for engine in (plain, fast))
    hold("ten steps, compiled, captured, fp32: weights", apart(found, expected), 1e-3)


def population(recipe: Recipe, fast: Engine, plain: Engine, hold: Callable[..., None]) -> None:
    """Four members, ten steps, each against a plain model alone."""
    batches = text(recipe, 2, 10)
    recipes = [recipe.change(seed=seed, optimizer={"lr": 0.002 * (seed + 1)}) for seed in range(4)]
    together, _ = trained(recipes, fast, batches)
    for member, one in enumerate(recipes):
        alone, _ = trained([one], plain, batches)
        hold(f"member {member} of four, ten steps: weights", apart(together, alone, member), 1e-3)


def apart(found: Step, expected: Step, member: int | None = None) -> float:
    """Relative distance of the weights of two models, or of one member from a model."""
    return distance(
        [
            (
                found.model.get_parameter(name).detach()[... if member is None else member],
                weight.detach(),
            )
            for name, weight in expected.model.named_parameters()
        ]
    )


def distance(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Relative distance of all first from all second tensors, taken together."""
    return float(
        sum((a - b).square().sum() for a, b in pairs) ** 0.5
        / sum(b.square().sum() for _, b in pairs) ** 0.5
    )


def large_vocabulary(device: str, small: bool, hold: Callable[..., None]) -> None:
    """The head of the paper's 2.4B model, in chunks, against all logits at once; and its memory."""
    tokens, width, vocab = (600, 64, 122_753) if small else (8192, 2304, 122_753)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).to(device)
    head = (torch.randn(vocab, width, generator=generator) / width**0.5).to(device)
    targets = torch.randint(vocab, (tokens,), generator=generator).to(device)

    def run(losses: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() if device == "cuda" else 0
        loss = losses(h, w)
        loss.mean().backward()
        if device == "cuda":
            print(
                f"  peak memory of {losses.__name__}: {(torch.cuda.max_memory_allocated() - held) / 2**30:.2f} GiB"
            )
        assert h.grad is not None and w.grad is not None
        return loss.detach(), h.grad, w.grad

    def all_at_once(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(h @ w.mT, targets, reduction="none")

    def in_chunks(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return token_losses(h, w, targets)

    for name, a, b in zip(
        ("loss", "gradient of hidden", "gradient of head"),
        run(in_chunks),
        run(all_at_once),
        strict=True,
    ):
        hold(f"122,753 tokens of vocabulary: {name}", distance([(a, b)]), 1e-5)


def long_run(
    recipe: Recipe, plain: Engine, fast: Engine, many: int, hold: Callable[..., None]
) -> None:
    """Mean loss of the last quarter of the steps: bf16, compiled, captured, against plain;
    another init for noise.
    """
    batches = text(recipe, 3, many)
    tail = max(1, many // 4)
    ends = []
    for one, engine in ((recipe, plain), (recipe, fast), (recipe.change(seed=1), plain)):
        ends.append(float(trained([one], engine, batches)[1][-tail:].mean()))
    print(
        f"  loss at the end: plain {ends[0]:.4f}, fast {ends[1]:.4f}, plain from another init {ends[2]:.4f}"
    )
    noise = abs(ends[2] - ends[0]) / ends[0]
    hold(
        f"{many} steps in bf16, compiled, captured: loss at the end",
        abs(ends[1] - ends[0]) / ends[0],
        max(noise, 2e-3),
    )


if __name__ == "__main__":
    main()
