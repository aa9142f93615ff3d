"""Every fast path of training against the plain one in fp32, on a GPU.

    .venv/bin/python bench/gpu_check.py [--device cpu]

About 4 minutes on a GPU; with --device cpu all checks, small, to try the script. For each: the
relative error (of a loss, of gradients by role, of weights after steps), beside its bound. Plain is
eager fp32. Prints a table and, last, one JSON list; without a GPU it says that it was skipped.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from claims import Claim, arguments, claim, end, header, last_line, row
from train import machine

from windtunnel.model.loss import token_losses
from windtunnel.model.roles import role_of
from windtunnel.model.shape import count
from windtunnel.recipe import Recipe, parse
from windtunnel.results.run import Engine
from windtunnel.train.device import choose_engine
from windtunnel.train.step import Step

Tensors = dict[str, torch.Tensor]
Hold = Callable[[str, float, float], None]  # what is held, its value, its bound
VOCABULARY = 122_753  # of the paper's 2.4B model
CALLS = 5  # of a step, until its work is captured


def main() -> None:
    """Hold each path against the plain one."""
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("skipped: there is no GPU here")
        last_line([])
        return
    small = given.device == "cpu"
    recipe = recipe_of(given.device, small)
    print(
        f"{machine()}, {given.device}; {count(recipe.model).params_total:,} parameters, "
        f"{recipe.train.batch} tokens a step"
    )
    torch.set_float32_matmul_precision("highest")
    claims: list[Claim] = []

    def hold(what: str, value: float, bound: float) -> None:
        ok = value <= bound
        claims.append(claim(what, value, "relative error", bound, ok, machine()))
        print(row(what, f"{value:.2e}", f"{bound:.0e}", "ok" if ok else "FAILS"), flush=True)

    print(header("fast path, against plain fp32", "relative error", "bound", ""))
    check(recipe, 20 if small else 200, hold)
    large_vocabulary(given.device, small, hold)
    end(claims)


def check(recipe: Recipe, long: int, hold: Hold) -> None:
    """Every path of training; `long`: steps of the longest run."""
    chosen = choose_engine(recipe)
    plain = changed(chosen, precision="fp32", compiled=False, recompute=False)
    fp32, bf16 = changed(chosen, precision="fp32"), changed(chosen, precision="bf16")
    fp8 = changed(chosen, precision="fp8")
    in_parts = changed(plain, micro_batch=recipe.data.context)
    again, fast_again = changed(plain, recompute=True), changed(fp32, recompute=True)
    gradients(recipe, plain, fp32, "compiled, captured, fp32", 1e-4, hold)
    gradients(recipe, plain, bf16, "compiled, captured, bf16", 3e-2, hold)
    gradients(recipe, plain, fp8, "compiled, captured, fp8", 2e-1, hold)
    gradients(recipe, plain, in_parts, "in parts", 1e-5, hold)
    gradients(recipe, plain, again, "layers computed again", 1e-6, hold)
    gradients(recipe, plain, fast_again, "again, compiled, captured", 1e-4, hold)
    experts = recipe.change(model={"experts": 8})
    gradients(experts, plain, bf16, "8 experts, compiled, captured, bf16", 5e-2, hold)
    steps(recipe, plain, fp32, hold)
    population(recipe, fp32, plain, hold)
    long_run(recipe, plain, {"bf16": bf16, "fp8": fp8}, long, hold)


def changed(engine: Engine, **changes: object) -> Engine:
    """The same engine but for these."""
    return engine.model_copy(update=changes)


def recipe_of(device: str, small: bool) -> Recipe:
    """A model that a GPU has something to do with, or a small one."""
    large = {"width": 512, "depth": 8, "heads": 8, "kv_heads": 4, "vocab": 8192}
    tiny = {"width": 64, "depth": 2, "heads": 2, "vocab": 512}
    settings = {
        "name": "check",
        "model": (tiny if small else large) | {"base_width": 64},
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
    recipe: Recipe, plain: Engine, fast: Engine, name: str, bound: float, hold: Hold
) -> None:
    """Loss and gradient of one batch; the fast one after enough calls to be captured."""
    batch = text(recipe, 0, 1)[0]
    loss, expected = once(Step([recipe], plain), batch)
    fast_loss, found = once(Step([recipe], fast), batch)
    hold(f"{name}: loss", abs(fast_loss - loss) / loss, bound)
    for role in sorted({role_of(key) for key in expected}):
        pairs = [(found[key], expected[key]) for key in expected if role_of(key) == role]
        hold(f"{name}: gradient of {role}", distance(pairs), bound)


def once(step: Step, batch: np.ndarray) -> tuple[float, Tensors]:
    """Loss and gradients by name, after enough calls for the work to be captured."""
    loss = step.gradient(batch)
    for _ in range(CALLS - 1):
        step.optimizer.zero_grad()
        loss = step.gradient(batch)
    gradients = {}
    for name, parameter in step.model.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad.detach().clone()
    return float(loss), gradients


def trained(
    recipes: list[Recipe], engine: Engine, batches: np.ndarray
) -> tuple[Step, torch.Tensor]:
    """The step after all batches, (many, n, context + 1), and its losses."""
    step, losses = Step(recipes, engine), []
    for batch in batches:
        if len(recipes) > 1:
            batch = np.broadcast_to(batch, (len(recipes), *batch.shape)).copy()
        losses.append(step.gradient(batch))
        step.update([1.0] * len(recipes))
    return step, torch.stack(losses).cpu()


def steps(recipe: Recipe, plain: Engine, fast: Engine, hold: Hold) -> None:
    """Ten steps with the compiled, captured optimiser."""
    batches = text(recipe, 1, 10)
    (expected, _), (found, _) = (trained([recipe], engine, batches) for engine in (plain, fast))
    hold("ten steps, compiled, captured, fp32: weights", apart(found, expected), 1e-3)


def population(recipe: Recipe, fast: Engine, plain: Engine, hold: Hold) -> None:
    """Four members, ten steps, each against a plain model alone."""
    batches = text(recipe, 2, 10)
    recipes = [recipe.change(seed=seed, optimizer={"lr": 0.002 * (seed + 1)}) for seed in range(4)]
    together, _ = trained(recipes, fast, batches)
    for member, one in enumerate(recipes):
        alone, _ = trained([one], plain, batches)
        hold(f"member {member} of four, ten steps: weights", apart(together, alone, member), 1e-3)


def apart(found: Step, expected: Step, member: int | None = None) -> float:
    """Relative distance of the weights of two models, or of one member from a model."""
    pairs = []
    for name, weight in expected.model.named_parameters():
        theirs = found.model.get_parameter(name).detach()
        pairs.append((theirs if member is None else theirs[member], weight.detach()))
    return distance(pairs)


def distance(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Relative distance of all first from all second tensors, taken together."""
    apart = sum((a - b).square().sum() for a, b in pairs) ** 0.5
    size = sum(b.square().sum() for _, b in pairs) ** 0.5
    return float(apart / size)


def large_vocabulary(device: str, small: bool, hold: Hold) -> None:
    """The head of the paper's 2.4B model, in chunks, against all logits at once; and its memory."""
    tokens, width = (600, 64) if small else (8192, 2304)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).to(device)
    head = (torch.randn(VOCABULARY, width, generator=generator) / width**0.5).to(device)
    targets = torch.randint(VOCABULARY, (tokens,), generator=generator).to(device)

    def run(losses: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The losses, and the gradients of hidden and head."""
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() if device == "cuda" else 0
        loss = losses(h, w)
        loss.mean().backward()
        if device == "cuda":
            peak = torch.cuda.max_memory_allocated() - held
            print(f"  peak memory of {losses.__name__}: {peak / 2**30:.2f} GiB")
        assert h.grad is not None and w.grad is not None
        return loss.detach(), h.grad, w.grad

    def all_at_once(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(h @ w.mT, targets, reduction="none")

    def in_chunks(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return token_losses(h, w, targets)

    names = ("loss", "gradient of hidden", "gradient of head")
    for name, a, b in zip(names, run(in_chunks), run(all_at_once), strict=True):
        hold(f"{VOCABULARY:,} tokens of vocabulary: {name}", distance([(a, b)]), 1e-5)


def long_run(
    recipe: Recipe, plain: Engine, fast: Mapping[str, Engine], many: int, hold: Hold
) -> None:
    """Mean loss of the last quarter of the steps: of each precision, compiled, captured, against
    plain; another init for noise.
    """
    batches = text(recipe, 3, many)
    tail = max(1, many // 4)

    def end_of(one: Recipe, engine: Engine) -> float:
        return float(trained([one], engine, batches)[1][-tail:].mean())

    expected, other = end_of(recipe, plain), end_of(recipe.change(seed=1), plain)
    noise = abs(other - expected) / expected
    print(f"  loss at the end: plain {expected:.4f}, from another init {other:.4f}")
    for name, engine in fast.items():
        found = end_of(recipe, engine)
        what = f"{many} steps in {name}, compiled, captured: loss at the end"
        hold(what, abs(found - expected) / expected, max(noise, 2e-3))


if __name__ == "__main__":
    main()
