"""A real Slurm of one node on this machine: a controller and a node, which trust each other."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from patience import PATIENCE, wait_until
from ports import free_port

_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} CPUs={cores} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """`environment` is for those who use it."""

    def __init__(self, folder: Path) -> None:
        self.configuration = str(folder / "slurm.conf")
        self.environment = os.environ | {"SLURM_CONF": self.configuration}

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait(self, job: str) -> str:
        """Until a job is over: how it ended."""

        def state() -> str:
            said = self.run("scontrol", "show", "job", job)
            return said.split("JobState=")[1].split()[0]

        wait_until(lambda: state() not in ("PENDING", "RUNNING", "COMPLETING"), every=0.5)
        return state()


@contextmanager
def slurm() -> Iterator[Slurm]:
    if missing := [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]:
        pytest.skip(f"Slurm is not installed: {', '.join(missing)}")
    if os.getuid() != 0:
        pytest.skip("Slurm's node starts jobs as root alone")
    folder = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    written = _CONFIGURATION.format(
        host=socket.gethostname(),
        folder=folder,
        controller=free_port(),
        node=free_port(),
        cores=os.cpu_count(),
    )
    (folder / "slurm.conf").write_text(written)
    made = Slurm(folder)
    try:
        with ExitStack() as ends:
            key = folder / "munge.key"
            key.write_bytes(os.urandom(1024))
            key.chmod(0o600)
            ends.enter_context(
                _service(
                    *("munged", "--foreground", "--force", f"--key-file={key}"),
                    *(f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid"),
                    *(f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"),
                )
            )
            wait_until((folder / "munge.socket").exists)
            configuration = str(folder / "slurm.conf")
            ends.enter_context(_service("slurmctld", "-D", "-f", configuration))
            ends.enter_context(_service("slurmd", "-D", "-f", configuration))
            wait_until(lambda: "idle" in _said(made, "sinfo", "-h", "-o", "%T"), every=0.5)
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _service(*command: str) -> Iterator[None]:
    found = shutil.which(command[0], path=_path())
    assert found
    process = subprocess.Popen(
        [found, *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _said(slurm: Slurm, *command: str) -> str:
    done = subprocess.run(
        command, env=slurm.environment, capture_output=True, text=True, check=False
    )
    return done.stdout


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"
