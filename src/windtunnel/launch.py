"""A study or a run as a job of a cluster: the text of the job, and how it is submitted."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from windtunnel.choices import Table
from windtunnel.errors import InputError

# Of torchrun's meeting place, where nothing else of the job is in the way.
_PORT = 29500


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a job is to do: a study, whose many runs are trained by actors of Ray, or one run, which
    is trained by a rank for each GPU or core.
    """

    name: str
    study: bool
    arguments: tuple[str, ...]
    """Of `windtunnel`."""
    nodes: int
    gpus: int
    """Of each node; 0: cores are trained on."""
    cores: int
    """Of each node."""
    time: str
    """As Slurm takes it."""
    folder: Path
    """In which it is started, on every node the same."""

    @property
    def command(self) -> str:
        """Behind `windtunnel`, in a shell."""
        return shlex.join(self.arguments)

    @property
    def ranks(self) -> int:
        """Of a run, on each node."""
        return self.gpus or self.cores


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """A way to start a job."""

    name: str
    help: str
    suffix: str
    text: Callable[[Work], str]
    submit: tuple[str, ...]
    """The command that takes the file with the text."""


def slurm(work: Work) -> str:
    """An sbatch file: Ray on every node and the study on the first, or torchrun on every node."""
    return _lines(
        "#!/bin/bash",
        f"#SBATCH --job-name=windtunnel-{work.name}",
        f"#SBATCH --nodes={work.nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --cpus-per-task={work.cores}",
        *_if(work.gpus, f"#SBATCH --gpus-per-node={work.gpus}"),
        f"#SBATCH --time={work.time}",
        f"#SBATCH --chdir={work.folder}",
        "# Taken from its machines, it goes on from its last checkpoints.",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "",
        "set -euo pipefail",
        f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"',
        *_if(not work.gpus, "export OMP_NUM_THREADS=1"),
        'head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
        "# Jobs that share a machine must not meet.",
        'port="$((20000 + SLURM_JOB_ID % 20000))"',
        "",
        *(_ray_on_slurm(work) if work.study else _ranks_on_slurm(work)),
    )


def torchrun(work: Work) -> str:
    """A shell script for this machine. Raises InputError for what is not one run on one machine."""
    if work.study:
        raise InputError(
            f"--torchrun: {work.name} is a study, whose many runs are trained by workers: "
            f"`windtunnel {work.name}` has one for each GPU of this machine; expected --slurm or "
            "--sky for more"
        )
    if work.nodes > 1:
        raise InputError("--nodes: --torchrun starts a run on this machine; expected --slurm")
    return _lines(
        "#!/bin/bash",
        "set -euo pipefail",
        f"cd {shlex.quote(str(work.folder))}",
        f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"',
        *_if(not work.gpus, "export OMP_NUM_THREADS=1"),
        f"exec torchrun --standalone --nproc-per-node={work.ranks} \\",
        f"  -m windtunnel {work.command}",
    )


def sky(work: Work) -> str:
    """A task of SkyPilot. Its machines have no folder in common of their own: it names a volume."""
    if work.study:
        run = (
            "~/sky_templates/ray/start_cluster",
            'if [ "$SKYPILOT_NODE_RANK" = 0 ]; then',
            f"  windtunnel {work.command} --on ray",
            "fi",
        )
    else:
        run = (
            'torchrun --nnodes="$SKYPILOT_NUM_NODES" --node-rank="$SKYPILOT_NODE_RANK" \\',
            '  --master-addr="$(echo "$SKYPILOT_NODE_IPS" | head -n 1)" \\',
            f"  --master-port={_PORT} --nproc-per-node={work.ranks} \\",
            f"  -m windtunnel {work.command}",
        )
    return _lines(
        "# Its authors have not tried this on a cloud. Fill in what is in capitals.",
        f"name: windtunnel-{work.name}",
        f"num_nodes: {work.nodes}",
        "resources:",
        f"  accelerators: YOUR-GPU:{work.gpus}" if work.gpus else f"  cpus: {work.cores}+",
        "workdir: .",
        "volumes:",
        "  # For the lab (--lab /lab): all machines see it at once. A bucket is no such thing.",
        "  /lab: YOUR-VOLUME",
        "setup: |",
        "  pip install 'windtunnel[ray]'",
        "run: |",
        "  set -euo pipefail",
        *(f"  {line}" for line in run),
    )


LAUNCHERS = Table(
    "launcher",
    (
        Launcher(
            name="slurm",
            help="an sbatch file, for Ray or torchrun on the nodes that Slurm gives",
            suffix=".sbatch",
            text=slurm,
            submit=("sbatch",),
        ),
        Launcher(
            name="torchrun",
            help="a script that trains one run on all GPUs of this machine",
            suffix=".sh",
            text=torchrun,
            submit=("bash",),
        ),
        Launcher(
            name="sky",
            help="a task of SkyPilot, for a cloud",
            suffix=".yaml",
            text=sky,
            submit=("sky", "launch"),
        ),
    ),
)


def _ray_on_slurm(work: Work) -> list[str]:
    """The head and the other nodes are steps of their own, which end with the job. `ray stop`, and
    what calls it, would also end the Ray of another job on the machine.
    """
    gpus = f" --num-gpus={work.gpus}" if work.gpus else ""
    offered = f'--num-cpus="$SLURM_CPUS_PER_TASK"{gpus} --block'
    step = 'srun --overlap --cpus-per-task="$SLURM_CPUS_PER_TASK" --output=ray-%J.log'
    return [
        "export RAY_USAGE_STATS_ENABLED=0",
        "# Else whoever reaches a port of these machines could run programs on them.",
        "export RAY_AUTH_MODE=token",
        "RAY_AUTH_TOKEN=\"$(python -c 'import secrets; print(secrets.token_hex(32))')\"",
        "export RAY_AUTH_TOKEN",
        "ip=\"$(hostname -I | cut -d ' ' -f 1)\"",
        'export RAY_ADDRESS="$ip:$port"',
        f'{step} --nodes=1 --ntasks=1 --nodelist="$head" \\',
        '  ray start --head --node-ip-address="$ip" --port="$port" \\',
        '  --ray-client-server-port="$((port + 1))" --include-dashboard=false \\',
        f"  {offered} &",
        "timeout 600 bash -c 'until ray status; do sleep 1; done' > /dev/null 2>&1",
        *_if(
            work.nodes > 1,
            f'{step} --nodes="$((SLURM_NNODES - 1))" --exclude="$head" --ntasks-per-node=1 \\',
            f'  ray start --address="$RAY_ADDRESS" {offered} &',
        ),
        f"windtunnel {work.command} --on ray",
    ]


def _ranks_on_slurm(work: Work) -> list[str]:
    return [
        'srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \\',
        f'  torchrun --nnodes="$SLURM_NNODES" --nproc-per-node={work.ranks} \\',
        '  --rdzv-backend=c10d --rdzv-endpoint="$head:$port" --rdzv-id="$SLURM_JOB_ID" \\',
        f"  -m windtunnel {work.command}",
    ]


def _if(wanted: object, *lines: str) -> tuple[str, ...]:
    return lines if wanted else ()


def _lines(*lines: str) -> str:
    return "\n".join([*lines, ""])
