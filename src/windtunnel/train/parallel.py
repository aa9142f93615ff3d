"""One run on many processes: the only file that knows of ranks.

Each of the `world` processes that torchrun started, or an actor of Ray, a rank, learns an equal
share of every batch and holds an equal share of every large tensor, of its gradient and of what the
optimiser remembers (FSDP2, `fully_shard` layer by layer). Over several machines each holds the
whole model in shares, so that the weights travel within a machine and the gradients alone between
them (HSDP). Gains and routers are small: every rank holds them whole.

Sums add up in another order than in one process, so a run gives the same bits at the same number
of ranks on as many machines, and differs by rounding at any other.
"""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch import Tensor, nn

from windtunnel.errors import InputError, Lost
from windtunnel.model.decoder import Decoder
from windtunnel.model.init import initial_tensor
from windtunnel.model.roles import role_of
from windtunnel.recipe import PRECISIONS
from windtunnel.train import checkpoint
from windtunnel.train.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule

    from windtunnel.recipe import Model, Recipe
    from windtunnel.results.run import Engine

# Losses may be a view of what a product gave: nothing changes them in place.
warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)

# torch.distributed's parts take a while to import: a run alone does without them.

_Made = TypeVar("_Made")
_joins = itertools.count()  # times that this process has joined others
# Seconds in which a rank that lost another one may ask who says so.
_ASKED_WITHIN = 5
# In the message of an error of a collective, where another rank is gone.
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "process group")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes of one run, as one of them sees them. `ALONE` is a run's only process; of it
    every sum is what it was given.
    """

    rank: int = 0
    world: int = 1
    machine: int = 1
    """Ranks on this machine, over which a model is cut."""
    mesh: DeviceMesh | None = None
    """Of the devices: (ranks,), or (machines, ranks of a machine)."""
    talk: Any = None
    """The group in which processors, not devices, talk."""
    aside: Any = None
    """The same, for a thread beside the one that trains."""

    @property
    def first(self) -> bool:
        """Whether it is this one that locks, records and renames."""
        return self.rank == 0

    def place(self, position: int, tokens: int) -> tuple[int, int]:
        """Where this rank's share of a batch of `tokens` tokens at a position begins, and its
        tokens.
        """
        share = tokens // self.world
        return position + self.rank * share, share

    def sum(self, tensor: Tensor) -> Tensor:
        """Over all ranks, the same bits on each; on the device."""
        if self.world == 1:
            return tensor
        import torch.distributed as dist

        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def norm(self, mine: Tensor) -> Tensor:
        """From the norm of this rank's shares, () or (1,), that of the whole tensors."""
        import torch.distributed as dist

        assert self.mesh is not None
        total = mine.square()
        # on every machine the whole model is there once
        dist.all_reduce(total, group=self.mesh.get_group(self.mesh.ndim - 1))
        return total.sqrt()

    def agree(self, asked: bool) -> bool:
        """Whether any rank asks; all hear the same."""
        if self.world == 1:
            return asked
        import torch.distributed as dist

        flag = torch.tensor([int(asked)])
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.talk)
        return bool(flag.item())

    def told(self, number: int) -> int:
        """What the first rank says; the others' own is not asked."""
        if self.world == 1:
            return number
        import torch.distributed as dist

        said = torch.tensor([number])
        dist.broadcast(said, 0, group=self.talk)
        return int(said.item())

    def join(self, mine: Tensor) -> Tensor:
        """Tensors of the host, one a rank and all of one shape, joined at their first axis."""
        if self.world == 1:
            return mine
        import torch.distributed as dist

        parts = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(parts, mine.contiguous(), group=self.talk)
        return torch.cat(parts)

    def all(self, mine: Any) -> list[Any]:
        """A small object of each rank, on every rank."""
        if self.world == 1:
            return [mine]
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, mine, group=self.talk)
        return found

    def wait(self) -> None:
        """For all to come here."""
        self.agree(False)

    def on_a_thread(self) -> Self:
        """For the one other thread of this process: what it says comes in between nothing."""
        return replace(self, talk=self.aside)


ALONE = Ranks()


def started() -> int:
    """How many processes were started for this command, this one among them."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The ranks that were started, this process one of them; `ALONE` where none were. `device`:
    the recipe's kind.

    Raises Lost in all others where one of them is gone.
    """
    world = started()
    if world == 1:
        yield ALONE
        return
    import torch.distributed as dist

    # Where a rank is lost, torchrun ends the others: one of them must live to say so. What asks a
    # run to stop has a handler of its own meanwhile.
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield _ranks(world, device)
        dist.destroy_process_group()
        signal.signal(signal.SIGTERM, before)
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise lost(world) from None


def lost(world: int) -> Lost:
    """Where one of so many ranks is gone."""
    return Lost(
        f"one of the {world} processes of this run is gone, and so all of them end; the same "
        "command goes on from the last checkpoint"
    )


def _ranks(world: int, device: str) -> Ranks:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    rank, machine = int(os.environ["RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", world))
    on_gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    # A command may train several runs, one after the other, and the store outlives each of them: it
    # still has what the ranks told each other the last time.
    store, _, _ = next(rendezvous("env://"))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
        store=PrefixStore(f"windtunnel/{next(_joins)}", store),
        rank=rank,
        world_size=world,
    )
    kind = "cuda" if on_gpus else "cpu"
    alike = machine < world and world % machine == 0
    if alike:
        shape, names = (world // machine, machine), ("machines", "shares")
    else:
        shape, names, machine = (world,), ("shares",), world
    return Ranks(
        rank=rank,
        world=world,
        machine=machine,
        mesh=init_device_mesh(kind, shape, mesh_dim_names=names),
        talk=dist.new_group(backend="gloo"),
        aside=dist.new_group(backend="gloo"),
    )


def _is_lost(error: RuntimeError) -> bool:
    import torch.distributed as dist

    said = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in said for word in _LOST)


def first_to_say() -> bool:
    """Whether no other rank has said yet why the run ends: all may know, and one says it. Asked of
    torchrun's own process, which outlives the ranks.
    """
    import torch.distributed as dist

    try:
        store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=_ASKED_WITHIN),
        )
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return store.add(f"windtunnel/said/{start}", 1) == 1
    except (RuntimeError, KeyError):
        return True


def check_shares(recipe: Recipe, world: int) -> None:
    """Raises InputError where a batch has no equal share of whole windows for every rank."""
    for batch in recipe.batches:
        if batch % (world * recipe.data.context):
            windows = batch // recipe.data.context
            raise InputError(
                f"{recipe.name}: {world} processes can't share a batch of {windows} windows "
                f"equally; expected a number of processes that divides {windows}"
            )


def sharded(shape: Model, context: int, seed: int, engine: Engine, ranks: Ranks) -> Decoder:
    """A model with its initial weights, each rank holding its shares alone: no rank ever holds more
    than one whole tensor at a time. As for `Decoder`.
    """
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    model = Decoder(shape, context, seed=None)
    assert ranks.mesh is not None
    whole = {parameter for name, parameter in model.named_parameters() if _is_whole(name)}
    # what products take travels in their precision, and its gradients are summed in fp32; the
    # table of the embedding is read in fp32, as in one process
    halved = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    policy = halved if PRECISIONS[engine.precision].half else MixedPrecisionPolicy()
    for layer in model.layers:
        fully_shard(layer, mesh=ranks.mesh, mp_policy=policy, ignored_params=whole)
    fully_shard(model, mesh=ranks.mesh, ignored_params=whole)
    for part in _parts(model):
        # a gradient is a sum over the batch, whose mean the loss has taken; not recursive
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(model, "losses_and_unevenness")
    for name, parameter in list(model.named_parameters()):
        value = initial_tensor(shape, name, seed)
        _assign(model, name, share_of(value, parameter).to(engine.device))
    # the buffers follow, and FSDP takes up the new shares
    return model.to(engine.device)


def _is_whole(name: str) -> bool:
    """Whether every rank holds this parameter whole."""
    return role_of(name) == "gain" or name.endswith(".router")


def _parts(model: nn.Module) -> Iterator[FSDPModule]:
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            yield module


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    module, _, leaf = name.rpartition(".")
    model.get_submodule(module).register_parameter(leaf, nn.Parameter(value))


def is_shared(tensor: Tensor) -> bool:
    """Whether each rank holds a share of it."""
    if "torch.distributed.tensor" not in sys.modules:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """A view of what this rank holds: of its first axis as many rows as its share has."""
    return tensor.detach().to_local() if is_shared(tensor) else tensor.detach()  # type: ignore


def like(parameter: Tensor, mine: Tensor) -> Tensor:
    """The tensor of which this rank holds `mine`, cut as `parameter` is; no copy."""
    from torch.distributed.tensor import DTensor

    assert isinstance(parameter, DTensor)
    return DTensor.from_local(
        mine,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def whole_of(parameter: Tensor, mine: Tensor) -> Tensor:
    """All ranks' shares `mine` of a tensor that is cut as `parameter` is, as one."""
    return like(parameter, mine).full_tensor()  # type: ignore[attr-defined]


def share_of(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor that every rank has, cut as `parameter` is; nothing is sent."""
    if not is_shared(parameter):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
    cut = distribute_tensor(value, mesh, placements, src_data_rank=None)
    # a view would keep the whole tensor alive
    return like(parameter, local(cut).clone())


def place(parameter: Tensor, value: Tensor) -> None:
    """This rank's share of a whole tensor into its parameter."""
    with torch.no_grad():
        local(parameter).copy_(local(share_of(value.contiguous(), parameter)))


def save(
    folder: Path, state: Checkpoint, ranks: Ranks, wanted: Callable[[], bool] = lambda: True
) -> None:
    """Write a checkpoint: each rank its shares to files of its own, and the first one what belongs
    to all. After a crash of any of them at any moment it is there whole, or not at all. Raises
    InputError on all ranks where one of them can't write. `wanted`: as for one process.
    """
    if ranks.world == 1:
        checkpoint.save(folder, state, wanted)
        return
    final = checkpoint.path_of(folder, state.tokens)
    part = checkpoint.part_of(final, ranks.told(secrets.randbits(32)))

    def begin() -> None:
        if ranks.first:
            part.mkdir()

    def end() -> None:
        if ranks.first and wanted():
            checkpoint.appear(part, final, state, digests)

    with checkpoint.being_written(final, part) if ranks.first else nullcontext():
        _all_or_none(ranks, final, begin)
        digests: dict[str, str] = {}
        for of_one in _all_or_none(ranks, final, lambda: _written(part, state, ranks)):
            digests |= of_one
        _all_or_none(ranks, final, end)


def _written(part: Path, state: Checkpoint, ranks: Ranks) -> dict[str, str]:
    """Write this rank's shares; the digests of its files."""
    from torch.distributed.checkpoint import state_dict_saver
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    for name in checkpoint.PARTS:
        writer = HuggingFaceStorageWriter(str(part / name), save_distributed=True)
        # else it would copy by a stream of a device, and that of this thread is the first one's
        writer.per_thread_copy_ahead = 0
        state_dict_saver.save(getattr(state, name), storage_writer=writer, process_group=ranks.talk)
    files = sorted(part.glob(f"*/shard-{ranks.rank + 1:05d}-*.safetensors"))
    return {str(file.relative_to(part)): checkpoint.digest_of(file) for file in files}


def _all_or_none(ranks: Ranks, final: Path, work: Callable[[], _Made]) -> list[_Made]:
    """What each rank makes of its work for a checkpoint; InputError on all where one can't."""
    from torch.distributed.checkpoint.api import CheckpointException

    mine, wrong = None, ""
    try:
        mine = work()
    except InputError as error:
        wrong = str(error)
    except (OSError, CheckpointException) as error:
        wrong = f"{final}: the checkpoint could not be written: {error}"
    made: list[tuple[_Made, str]] = ranks.all((mine, wrong))
    for _, why in made:
        if why:
            raise InputError(why)
    return [one for one, _ in made]


def load(
    folder: Path,
    tokens: int,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    ranks: Ranks,
) -> int:
    """Fill these tensors with a checkpoint's, each rank its shares, however many processes wrote
    it; returns the updates that lie behind it: 0 where it has no moments. Raises InputError for a
    damaged file, which one of the ranks finds.
    """
    from torch.distributed.checkpoint import state_dict_loader
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    path = checkpoint.path_of(folder, tokens)
    content = checkpoint.content_of(path)
    for file in sorted(content.sha256)[ranks.rank :: ranks.world]:
        checkpoint.check(path, content, file)
    ranks.wait()
    steps = content.steps
    for name, tensors in zip(checkpoint.PARTS, (weights, moments), strict=True):
        # one process writes a file of each, side by side: their tensors have different names
        one = path / name if (path / name).is_dir() else path
        reader = HuggingFaceStorageReader(str(one))
        there = set(reader.read_metadata().state_dict_metadata)
        if tensors is moments and not moments.keys() <= there:
            return 0  # an imported model brings none
        with torch.no_grad():
            state_dict_loader.load(dict(tensors), storage_reader=reader, process_group=ranks.talk)
    return steps


def begin_part(model: Decoder, ranks: Ranks, last: bool) -> None:
    """Before a part of a batch: between machines gradients are summed once, behind the last."""
    if ranks.machine < ranks.world:
        model.set_requires_all_reduce(last)  # type: ignore[operator]
