"""Commands under a real torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def torchrun(lab: Path, world: int, *arguments: object) -> Any:
    """What a command on so many processes, which must succeed, prints with --json."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node", str(world), "-m", "windtunnel"]
    done = subprocess.run(
        [*command, *map(str, arguments), "--lab", str(lab), "--json"],
        env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
