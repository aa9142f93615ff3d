"""A training step's kernels on one H100, counted without the device, and the share of its peak that
they let expect.

    python3 -m venv build/cuda.venv                               # once; 5 GB, and g++
    build/cuda.venv/bin/pip install torch==2.11.0 -e .            # with the index's CUDA build
    build/cuda.venv/bin/python bench/kernels.py [SIZE...] [--device h100|h200] [--list]

The loop's own step goes through fake tensors on a GPU that is not there (bench/no_gpu.py), with the
engine that `windtunnel train` would choose on it, and inductor lowers what is compiled. Counted are
the kernels that it would launch, with the bytes that each moves by inductor's own estimate; what
runs beside compiled graphs, with the bytes of its tensors; FLOPs of every product, those computed
again too; and the most bytes that tensors between kernels hold at once.

A forecast, and no measurement: of a maker's rates products are assumed to reach 660 TFLOP/s of an
H100, those in 8 bits 1,100 (five sixths of twice as much), attention 350, and all else 85% of the
memory's bandwidth; nothing is assumed to overlap. Shares are of the peak in 16 bits.
--list tells every kernel. Prints a table and, last, one JSON list; where no such build of torch is,
it says so and exits with 2.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import no_gpu
import numpy as np
import torch
from big import CONTEXT, SHAPES, recipe_of, ways_of
from claims import Claim, arguments, claim, header, last_line, row
from held import Held
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from windtunnel.model.decoder import Decoder
from windtunnel.model.shape import flops_per_token
from windtunnel.recipe import Recipe
from windtunnel.train.device import choose_engine
from windtunnel.train.graphs import Replayed
from windtunnel.train.step import Step

PEAK = 989e12
# Launch nothing, whatever they are given.
FREE = ("empty", "detach", "alias", "lift_fresh")
# Overwrite what they are given without reading it.
OVERWRITE = ("zero_", "fill_", "copy_")


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a GPU is assumed to reach."""

    memory: int
    """Bytes."""
    bandwidth: float
    """Bytes a second, of a step's kernels; so FLOP/s of the others."""
    products: float
    narrow: float
    """Of products in 8 bits."""
    attention: float


DEVICES = {
    "h100": Device(
        memory=no_gpu.MEMORY,
        bandwidth=0.85 * 3.35e12,
        products=660e12,
        narrow=1100e12,
        attention=350e12,
    ),
    "h200": Device(
        memory=150_100_000_000,
        bandwidth=0.85 * 4.8e12,
        products=680e12,
        narrow=1130e12,
        attention=360e12,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One launch."""

    kind: str
    """Triton, product, narrow product, attention, or eager: what no compiled graph launches."""
    name: str
    moved: int = 0
    """Bytes; of products and attention they are not counted."""
    flops: int = 0

    def seconds(self, device: Device) -> float:
        """What it is assumed to take."""
        if self.flops:
            rates = {"attention": device.attention, "narrow product": device.narrow}
            return self.flops / rates.get(self.kind, device.products)
        return self.moved / device.bandwidth


@dataclass
class Count:
    """What was launched while `on`, in order."""

    kernels: list[Kernel] = field(default_factory=list)
    on: bool = False

    @contextmanager
    def counting(self) -> Iterator[list[Kernel]]:
        """Inside, launches go to a list of their own."""
        self.kernels, self.on = [], True
        yield self.kernels
        self.on = False


def main() -> None:
    """Count a step of each size."""
    parser = arguments(__doc__)
    parser.add_argument("sizes", nargs="*", default=list(SHAPES), help="among " + ", ".join(SHAPES))
    parser.add_argument("--device", choices=DEVICES, default="h100")
    parser.add_argument("--list", action="store_true", help="every kernel, by its bytes")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/no_gpu"), help="for what it builds"
    )
    given = parser.parse_args()
    if lacking := no_gpu.missing():
        print(f"bench/kernels.py: {lacking}", file=sys.stderr)
        sys.exit(2)
    no_gpu.enter(given.folder, DEVICES[given.device].memory)
    parts = ("products", "attention", "Triton", "beside", "update", "all")
    print(
        f"torch {torch.__version__}, {given.device}; kernels a step, bytes and microseconds a token"
    )
    print(
        header(
            "size",
            "at once",
            *("Triton", "products", "attention", "beside"),
            *("Triton bytes", "bytes beside"),
            *(f"{part}, us" for part in parts),
            "of 989 TFLOP/s",
            "held",
        )
    )
    last_line([measure(*way, given.device, given.list) for way in ways_of(given.sizes)])


def measure(size: str, precision: str, name: str, told: bool) -> Claim:
    """One row, and the claim of a size; `told`: with every kernel."""
    recipe, target = recipe_of(size, "cuda", precision), SHAPES[size][2]
    batch = recipe.train.batch
    found, device = counted_step(recipe), DEVICES[name]
    groups: dict[str, list[Kernel]] = {
        kind: [kernel for kernel in found.gradient if kernel.kind.endswith(kind)]
        for kind in ("product", "attention", "Triton", "eager")
    }
    times = [sum(one.seconds(device) for one in group) for group in groups.values()]
    times.append(sum(one.seconds(device) for one in found.update))
    share = flops_per_token(recipe.model, CONTEXT) * batch / sum(times) / PEAK
    print(
        row(
            f"{size}, {precision}",
            found.engine,
            *(len(groups[kind]) for kind in ("Triton", "product", "attention", "eager")),
            *(f"{moved(groups[kind]) / batch:,.0f}" for kind in ("Triton", "eager")),
            *(f"{time / batch * 1e6:.2f}" for time in (*times, sum(times))),
            f"{share:.1%}",
            f"{found.held / 1e9:.1f} GB",
        ),
        flush=True,
    )
    if told:
        tell(found, batch)
    what = (
        f"{size} in {precision} at context {CONTEXT}: forecast share of the dense bf16 peak, {name}"
    )
    return claim(what, round(share, 4), "share", target, share >= target, "none")


def moved(kernels: Sequence[Kernel]) -> int:
    """Bytes of all of them."""
    return sum(kernel.moved for kernel in kernels)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A step, counted."""

    engine: str
    gradient: list[Kernel]
    update: list[Kernel]
    held: int


def tell(found: Found, batch: int) -> None:
    """Every kernel, how often it is launched, and the bytes a token that it moves in all."""
    for what in ("gradient", "update"):
        kernels: list[Kernel] = getattr(found, what)
        each = Counter(kernels)
        print(f"  {what}: kernel, launches, bytes a token, GFLOP")
        for kernel, times in sorted(each.items(), key=lambda one: -one[0].moved * one[1]):
            each_token = (
                f"{times * kernel.moved / batch:12,.1f} {times * kernel.flops / 1e9:10,.0f}"
            )
            print(f"    {kernel.kind:10}{times:6}{each_token}  {kernel.name}")


def counted_step(recipe: Recipe) -> Found:
    """One step of the loop. Parts of a batch are alike: one is counted, after another one for which
    all was lowered.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    count, held = Count(), Held()
    with FakeTensorMode(allow_non_fake_inputs=True), as_on_a_gpu(count, held):
        engine = choose_engine(recipe)
        parts = recipe.train.batch // engine.micro_batch
        step = Step([recipe], engine)
        part = np.zeros((engine.micro_batch // CONTEXT, CONTEXT + 1), np.int64)
        with Beside(count, held):
            step.gradient(part)
            step.update([1.0])
            parameters = list(step.model.parameters())
            held.keep([parameters, [parameter.grad for parameter in parameters]])
            held.keep([step.optimizer.parameters, step.optimizer.state()])
            held.keep([vars(part).get("copies") for part in (step.model, *step.model.layers)])
            for layer in step.model.layers:
                narrow: dict[str, Any] = vars(layer).get("narrow_copies", {})
                held.keep([[*one.scaled, one.turned] for one in narrow.values()])
            with count.counting() as gradient:
                step.gradient(part)
            with count.counting() as update:
                step.update([1.0])
    again = ", layers again" if engine.recompute else ""
    told = f"{parts} x {engine.micro_batch}{again}"
    return Found(engine=told, gradient=gradient * parts, update=update, held=held.peak)


@contextmanager
def as_on_a_gpu(count: Count, held: Held) -> Iterator[None]:
    """Inside, what is compiled is lowered for each shape, and launches are counted where it would
    run; nothing is captured, and nothing is pinned.
    """
    from torch._dynamo import reset
    from torch._inductor import config as inductor
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.fx_passes import pad_mm

    import windtunnel.train.optimizer as optimizer
    import windtunnel.train.step as step

    lowered: Any = Lowering(count, held)
    torch_module: Any = torch
    compiled, tensor = torch.compile, torch.tensor
    reset()

    def backend(graph: Any, inputs: Any) -> Any:
        return compile_fx(graph, inputs, inner_compile=lowered)

    def counted(function: Callable[..., Any], **_: Any) -> Any:
        return compiled(function, dynamic=False, backend=backend)

    def without_numbers(values: Any, **told: Any) -> torch.Tensor:
        like = tensor(values, dtype=told.get("dtype"))
        return torch.empty(like.shape, dtype=like.dtype, device=told.get("device"))

    torch_module.compile, torch_module.tensor = counted, without_numbers
    inductor.joint_graph_constant_folding = False  # it would make real tensors there
    # it would measure whether padding gains; no product here needs it
    pad_mm.should_pad = lambda *_, **__: False
    Replayed.__call__ = lambda self, *tensors: self._function(*tensors)
    modules: list[Any] = [optimizer, step]
    for module in modules:
        module.to_device = lambda tensor, device: tensor.to(device)
    step._model_of = _without_numbers
    try:
        yield
    finally:
        torch_module.compile, torch_module.tensor = compiled, tensor


def _without_numbers(recipes: Sequence[Recipe], *_: Any) -> Decoder:
    """A model on the device; fake parameters can't be moved there."""
    model = Decoder(recipes[0].model, recipes[0].data.context, seed=None)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            there = torch.empty(parameter.shape, device="cuda")
            module.register_parameter(name, torch.nn.Parameter(there))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, buffer.to("cuda"), persistent=False)
    return model


class Beside(TorchDispatchMode):
    """Counts what is launched beside compiled graphs."""

    def __init__(self, count: Count, held: Held) -> None:
        super().__init__()
        self._count, self._held = count, held

    @classmethod
    def is_infra_mode(cls) -> bool:
        """The compiler steps aside for any other mode."""
        return True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """The same, in newer versions."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._count.on:
            self._held.keep(result)
            if kernel := _eager(func, args, kwargs or {}, result):
                self._count.kernels.append(kernel)
        return result


def _eager(func: Any, args: Any, kwargs: Any, result: Any) -> Kernel | None:
    """The launch of an operator that is not compiled; None for a view, or where nothing is on the
    device.
    """
    name = func._schema.name.removeprefix("aten::")
    given, made = _tensors([args, kwargs]), _tensors(result)
    if name.startswith(FREE) or not made:
        return None
    places = {_place(tensor) for tensor in given}
    fresh = [tensor for tensor in made if _place(tensor) not in places]
    changed = [tensor for tensor in made if _place(tensor) in places]
    mutates = name.endswith("_") or func._schema.is_mutable
    if not fresh and not mutates:
        return None
    if name in ("mm", "bmm") or "scaled_mm" in name:
        kind = "narrow product" if "scaled" in name else "product"
        flops = 2 * made[0].numel() * given[0].shape[-1]
        return Kernel(kind=kind, name=f"{name} {_shapes(given)}", flops=flops)
    read = given[1:] if name in OVERWRITE else given
    if name == "embedding":
        read = made  # of the table no more than what is looked up
    numbers = [*read, *fresh, *(changed if mutates else [])]
    return Kernel(kind="eager", name=f"{name} {_shapes(given)}", moved=sum(map(_bytes, numbers)))


def _tensors(tree: Any) -> list[torch.Tensor]:
    """Those on the device, each once."""
    leaves = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return list({id(leaf): leaf for leaf in leaves if leaf.device.type == "cuda"}.values())


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensor: torch.Tensor) -> int:
    """What is there of it: a number that is expanded is read once."""
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())


def _shapes(tensors: Sequence[torch.Tensor]) -> str:
    return " ".join(
        f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}" for tensor in tensors[:4]
    )


class Lowering:
    """Takes the place of inductor's last stage: lowers a graph as it does, and gives back not code
    but a function that counts the graph's launches.
    """

    def __init__(self, count: Count, held: Held) -> None:
        self._count, self._held = count, held

    def __call__(
        self,
        graph: torch.fx.GraphModule,
        inputs: Sequence[Any],
        *,
        is_backward: bool = False,
        is_inference: bool = False,
        **_: Any,
    ) -> Callable[[list[Any]], list[Any]]:
        """For a forward or a backward graph."""
        given, wanted = _ends(graph)
        on, self._count.on = self._count.on, False
        kernels = lower(graph, inputs, is_backward, is_inference)
        self._count.on = on

        def call(values: list[Any]) -> list[Any]:
            on, self._count.on = self._count.on, False
            there: dict[Any, Any] = dict(zip(given, values, strict=True))
            values.clear()  # so that nothing is held that the backward pass does not need
            results = [_value(node, there) for node in wanted]
            self._held.keep(results)
            self._count.on = on
            if on:
                self._count.kernels.extend(kernels)
            return results

        call._boxed_call = True  # type: ignore[attr-defined]
        return call


@dataclass(frozen=True, eq=False)
class _Node:
    """A tensor of a graph, before inductor changes it: a view of others, or a new one."""

    like: Any
    view: Callable[..., Any] | None = None
    of: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def _ends(graph: torch.fx.GraphModule) -> tuple[list[_Node], list[Any]]:
    """What goes into a graph and what comes out."""
    known: dict[Any, Any] = {}
    given, wanted = [], []
    for node in graph.graph.nodes:
        if node.op == "output":
            wanted = [known.get(one, one) for one in node.args[0]]
            continue
        is_view = isinstance(node.target, torch._ops.OpOverload) and node.target.is_view
        like = node.meta.get("val")
        if is_view:
            args = torch.fx.map_arg(node.args, lambda one: known[one])
            known[node] = _Node(like, node.target, args, dict(node.kwargs))
        else:
            known[node] = _Node(like)
        if node.op == "placeholder":
            given.append(known[node])
    return given, list(wanted)


def _value(node: Any, there: dict[Any, Any]) -> Any:
    """A tensor of a graph, from what was given; each is made once."""
    if not isinstance(node, _Node):
        return node
    if node not in there:
        if node.view is None:
            like = node.like
            there[node] = torch.empty_strided(
                like.shape, like.stride(), dtype=like.dtype, device=like.device
            )
        else:
            args = [_value(one, there) for one in node.of]
            there[node] = node.view(*args, **node.kwargs)
    return there[node]


def lower(
    graph: torch.fx.GraphModule, inputs: Sequence[Any], is_backward: bool, is_inference: bool
) -> list[Kernel]:
    """Its launches, as inductor would have them."""
    from torch._inductor.compile_fx import (
        _recursive_post_grad_passes,
        _recursive_record_original_output_strides,
        fake_tensor_prop,
    )
    from torch._inductor.debug import DebugContext
    from torch._inductor.fx_passes.post_grad import view_to_reshape
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V

    view_to_reshape(graph)
    with torch.no_grad():
        mode = fake_tensor_prop(graph, inputs)
    _recursive_record_original_output_strides(graph)
    with V.set_fake_mode(mode), DebugContext():
        _recursive_post_grad_passes(graph, is_inference=is_inference)
        lowering = GraphLowering(
            graph,
            example_inputs=inputs,
            shape_env=mode.shape_env,
            is_backward=is_backward,
            is_inference=is_inference,
        )
        with V.set_graph_handler(lowering), V.set_extern_kernel_nodes([]):
            lowering.run(*inputs)
            lowering.codegen()
            return [kernel for node in lowering.scheduler.nodes if (kernel := _scheduled(node))]


def _scheduled(node: Any) -> Kernel | None:
    """The launch of a node of inductor's schedule; None for one that launches nothing."""
    from torch._inductor.ir import MultiOutput
    from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode

    if isinstance(node, NopKernelSchedulerNode):
        return None
    if not isinstance(node, ExternKernelSchedulerNode):
        name = f"{node.get_name()[:40]} {_origins(node)}"
        return Kernel(kind="Triton", name=name, moved=int(node.get_read_write_buffers_sizes()))
    kernel: Any = node.node
    if isinstance(kernel, MultiOutput):
        return None
    name = str(kernel.python_kernel_name or kernel.op_overload)
    sizes = [[int(n) for n in one.get_size()] for one in kernel.inputs if hasattr(one, "get_size")]
    if "scaled_dot" in name:
        B, heads, T, size = sizes[0]
        # two products of (T + 1) / 2 keys; the backward pass is counted as twice the forward
        flops = 2 * B * heads * T * size * (T + 1) * (2 if "backward" in name else 1)
        return Kernel(kind="attention", name=name, flops=flops)
    narrow = "scaled_mm" in name
    if narrow or name.split(".")[-1] in ("mm", "bmm", "addmm", "baddbmm"):
        inner = sizes[1 if "add" in name else 0][-1]
        flops = 2 * inner * int(np.prod([int(n) for n in kernel.get_size()]))
        kind = "narrow product" if narrow else "product"
        return Kernel(kind=kind, name=f"{name} {sizes}", flops=flops)
    return Kernel(kind="Triton", name=name, moved=int(node.get_read_write_buffers_sizes()))


def _origins(node: Any) -> str:
    """What of the model a fused kernel computes."""
    names = {
        str(origin.target).removeprefix("aten.").split(".")[0]
        for one in node.get_nodes()
        for origin in (one.node.get_origins() if one.node else ())
    }
    return " ".join(sorted(names))[:150]


if __name__ == "__main__":
    main()
