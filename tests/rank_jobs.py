"""Several processes that train one run, forked from one that has imported torch already, and what
they do. Each is a rank as torchrun starts them: the same variables, the same way in.
"""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from patience import PATIENCE
from ports import free_port
from safetensors.torch import save_file

from windtunnel.data.shards import Corpus
from windtunnel.recipe import Recipe
from windtunnel.train.loop import train
from windtunnel.train.member import Watch
from windtunnel.train.parallel import Ranks, is_shared, joined
from windtunnel.train.run import Run, create, open_run
from windtunnel.train.step import Step

_IMPORTED = [
    "rank_jobs",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint.hf_storage",
    "torch.distributed.device_mesh",
    "torch.distributed.tensor",
]


def on_ranks(
    world: int, job: Callable[..., None], *given: Any, machine: int | None = None
) -> list[int | None]:
    """Call `job(ranks, *given)` on so many processes, `machine` of them on each of as many
    machines as it takes; their exit codes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    port = free_port()
    processes = []
    for rank in range(world):
        variables = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_RANK": str(rank % (machine or world)),
            "LOCAL_WORLD_SIZE": str(machine or world),
        }
        process = context.Process(target=_rank, args=(variables, job, given), daemon=True)
        process.start()
        processes.append(process)
    for process in processes:
        process.join(PATIENCE)
    return [process.exitcode for process in processes]


def _rank(variables: dict[str, str], job: Callable[..., None], given: tuple[Any, ...]) -> None:
    os.environ.update(variables)
    with joined("cpu") as ranks:
        job(ranks, *given)


def made(ranks: Ranks, lab: Path, recipe: Recipe, corpus: Corpus) -> Run:
    """The run, which the first rank makes."""
    if ranks.first:
        create(lab, recipe, corpus)
    ranks.wait()
    return create(lab, recipe, corpus)


def train_and_keep_gradients(
    ranks: Ranks, lab: Path, recipe: Recipe, folder: Path, steps: list[int], run: Path | None = None
) -> None:
    """Train a run, and keep the whole gradient of every tensor at these steps, a file for each."""
    corpus = Corpus.open(folder)
    here = open_run(run) if run else made(ranks, lab, recipe, corpus)

    def keep(step: Step, position: int) -> None:
        number = recipe.steps_in(position) + 1
        if number not in steps:
            return
        found = {}
        for name, parameter in step.optimizer.parameters.items():
            grad = parameter.grad
            assert grad is not None
            found[name] = (grad.full_tensor() if is_shared(grad) else grad).clone()
        if ranks.first:
            save_file(found, here.path / f"gradient-{number}.safetensors")

    train(here, corpus, Watch(gradient=keep), ranks)
