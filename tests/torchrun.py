"""Commands under a real torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ports import free_port

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def torchrun(lab: Path, world: int, *arguments: object, machines: int = 1) -> Any:
    """What a command on so many processes, which must succeed, prints with --json. With several
    `machines` each has a torchrun of its own, as on a cluster, and an equal part of the processes.
    """
    each = ["--nproc-per-node", str(world // machines)]
    command = ["-m", "windtunnel", *map(str, arguments), "--lab", str(lab), "--json"]
    meet = ["--nnodes", str(machines), "--master-addr", "127.0.0.1"]
    meet += ["--master-port", str(free_port())]
    started = []
    for node in range(machines):
        started.append(_started(*meet, "--node-rank", str(node), *each, *command))
    said = [process.communicate() for process in started]
    for process, (_, errors) in zip(started, said, strict=True):
        assert process.returncode == 0, errors
    return json.loads(said[0][0])  # rank 0 alone prints


def _started(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
