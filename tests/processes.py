"""The real command line, or a program, in a process of its own that begins at once: it is forked
from one that has imported torch already, which would take most of the time of a short test.

A process is as real as any: it has its own memory, signals, session and exit code, and a kill is a
real SIGKILL.
"""

import array
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

_FORKING = "import processes; processes.serve_forks()"
_IMPORTED = (
    "windtunnel.train.loop",
    "windtunnel.tunnel.fleet.fleet",
    # and what commands import once they are asked for
    "windtunnel.tunnel.scaling.scaling",
    "windtunnel.tunnel.ablate.ablate",
    "windtunnel.family.dpo",
    "windtunnel.family.sft",
    "windtunnel.ship.export",
    "windtunnel.plan.plan",
)
_MESSAGE = 1 << 20  # bytes: arguments, environment


class Process:
    """What `subprocess.Popen` gives, as far as tests use it."""

    def __init__(
        self,
        args: list[str],
        environment: dict[str, str],
        session: bool = False,
        program: str | None = None,
        typed: bytes = b"",
    ) -> None:
        """`program`: the text of one that is given `args`, as by `python -c`, in place of the
        command line. `typed`: what it reads from its standard input, to the end.
        """
        self.args = args
        self.returncode: int | None = None
        request = {
            "args": args,
            "environment": environment,
            "session": session,
            "program": program,
            "folder": os.getcwd(),
        }
        # what it prints, and what it is told to print
        out, theirs_out = os.pipe()
        err, theirs_err = os.pipe()
        ours, theirs = socket.socketpair()
        given = os.memfd_create("typed")
        os.write(given, typed)
        os.lseek(given, 0, os.SEEK_SET)
        told = [theirs_out, theirs_err, theirs.fileno(), given]
        _forker().sendmsg(
            [json.dumps(request).encode()],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", told))],
        )
        for handle in (theirs_out, theirs_err, given):
            os.close(handle)
        theirs.close()
        self.stdout = os.fdopen(out)
        self.stderr = os.fdopen(err)
        self._news = ours.makefile()
        self._socket = ours
        self.pid = int(self._news.readline())

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that killed it; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(timeout=0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._socket], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._news.readline())
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it prints, to its end. Raises subprocess.TimeoutExpired."""
        said = {}
        streams = {"out": self.stdout, "err": self.stderr}

        def read(name: str) -> None:
            said[name] = streams[name].read()

        readers = [threading.Thread(target=read, args=(name,), daemon=True) for name in streams]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        for stream in streams.values():
            stream.close()
        self._socket.close()
        return said["out"], said["err"]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


@functools.cache
def _forker() -> socket.socket:
    """The process that forks; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MESSAGE)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "FORKS": str(theirs.fileno()),
    }
    subprocess.Popen([sys.executable, "-c", _FORKING], pass_fds=[theirs.fileno()], env=environment)
    theirs.close()
    return ours


def serve_forks() -> None:
    """Fork a command for each request, until the one who asks is gone."""
    requests = socket.socket(fileno=int(os.environ["FORKS"]))
    _prepare()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # of those who wait for a command
    while True:
        content, told, _, _ = requests.recvmsg(_MESSAGE, socket.CMSG_SPACE(4 * 4))
        if not content:
            return
        handles = array.array("i")
        handles.frombytes(told[0][2])
        if os.fork() == 0:
            requests.close()
            _wait_for(json.loads(content), *handles)
        for handle in handles:
            os.close(handle)


def _prepare() -> None:
    """What every command would do anew: import what it needs, and measure the processor's peak."""
    from windtunnel import cli

    for module in (*_IMPORTED, *(f"windtunnel.cli.{name}" for name in cli._COMMANDS)):
        importlib.import_module(module)
    from windtunnel.results.run import Engine
    from windtunnel.train.device import matrix_peak

    for precision in ("fp32", "bf16"):
        matrix_peak(
            Engine(device="cpu", precision=precision, compiled=False, micro_batch=1, threads=1)
        )
    gc.freeze()  # what stays for ever is nothing for a command's collector to look through


def _wait_for(request: dict[str, Any], out: int, err: int, news: int, given: int) -> None:
    """Start the command and tell its number, and when it has ended its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    command = os.fork()
    if command == 0:
        os.close(news)
        _carry_out(request, out, err, given)
    for handle in (out, err, given):
        os.close(handle)
    with contextlib.suppress(BrokenPipeError):
        os.write(news, f"{command}\n".encode())
        _, status = os.waitpid(command, 0)
        os.write(news, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _carry_out(request: dict[str, Any], out: int, err: int, given: int) -> None:
    if request["session"]:
        os.setsid()
    for handle, standard in ((given, 0), (out, 1), (err, 2)):
        os.dup2(handle, standard)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    program = request["program"]
    sys.argv = ["windtunnel" if program is None else "-c", *request["args"]]
    code = 1
    try:
        if program is None:
            from windtunnel.cli import main

            main()
        else:
            exec(program, {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    _end(code)


def _end(code: int) -> None:
    """As the interpreter does: threads and what is registered first, then the streams."""
    threading._shutdown()
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
