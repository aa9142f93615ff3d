"""Programs that a model wrote, run so that they can do no harm.

Each runs in `jail.py`, a process of its own: Linux namespaces (no network, no other processes, of
the files only Python itself, to read), a user who owns nothing, and limits of time, memory, disk
and processes. Where a system allows no namespaces, nothing runs, unless a person trusts the code:
then the limits alone hold, and a program can read and change what that person can.

It is no wall against code that attacks the kernel itself; for that, take a virtual machine.
"""

import functools
import json
import os
import secrets
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from windtunnel.errors import InputError

_JAIL = Path(__file__).with_name("jail.py")
_LATE = 20.0  # seconds that the jail itself may take, beyond what the program may
_DONE = 3  # as in jail.py


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may use."""

    seconds: float = 5.0
    """Of the clock."""
    memory: int = 512 << 20
    """Bytes of addresses, of each process."""
    disk: int = 32 << 20
    """Bytes of files, which lie in memory."""
    processes: int = 8
    """At once, threads counted."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a program."""

    passed: bool
    """Whether it ran to its end."""
    why: str
    """Why not, in one line; empty where it did."""


def run(program: str, limits: Limits | None = None, trust: bool = False) -> Outcome:
    """Run a Python program. Raises InputError where it cannot be shut in here and nobody `trust`s
    it; it is not run then.
    """
    reason = _hindrance()
    if reason and not trust:
        raise InputError(
            f"code of a model cannot be shut in on this system ({reason}), so it is not run; "
            "--trust runs it with the rights that you have"
        )
    said = _jailed(program, limits or Limits(), shut_in=not reason)
    if "refused" in said:
        raise InputError(f"code of a model cannot be shut in on this system ({said['refused']})")
    return Outcome(passed=said["passed"], why=said["why"])


@functools.cache
def _hindrance() -> str:
    """Why programs can't be shut in here; empty where they can. It is tried with a program that
    does nothing, and with one that looks for this file.
    """
    if sys.platform != "linux":
        return f"{sys.platform} has no namespaces of Linux"
    limits = Limits(seconds=20)
    said = _jailed("pass", limits, shut_in=True)
    if reason := said.get("refused"):
        return reason
    if not said["passed"]:
        return f"an empty program does not run: {said['why']}"
    outside = f"open({str(_JAIL)!r})"
    return "files outside can be read" if _jailed(outside, limits, shut_in=True)["passed"] else ""


def _jailed(program: str, limits: Limits, shut_in: bool) -> dict:
    nonce = secrets.token_hex(16)
    python = Path(sys.executable).resolve()
    with tempfile.TemporaryDirectory(prefix="windtunnel-code-") as folder:
        order = asdict(limits) | {
            "program": _wrapped(program, nonce),
            "nonce": nonce,
            "shut_in": shut_in,
            "room": folder,
            "folder": "/work" if shut_in else folder,
            "python": str(python),
            "prefixes": _prefixes(python),
        }
        jail = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_JAIL)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")},
        )
        try:
            said, error = jail.communicate(json.dumps(order).encode(), limits.seconds + _LATE)
        except subprocess.TimeoutExpired:
            jail.kill()
            jail.communicate()
            return {"passed": False, "why": "it and its jail did not end"}
    lines = said.decode("utf-8", "replace").splitlines()
    if jail.returncode or not lines:
        why = error.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no reason is known"]
        return {"refused": f"the jail failed: {why[0]}"}
    return json.loads(lines[-1])


def _prefixes(python: Path) -> list[str]:
    """Folders that hold Python itself and its library, but none of the packages of an environment
    beside it.
    """
    found = dict.fromkeys([str(Path(sys.base_prefix).resolve()), str(python.parent)])
    # whole systems are never shown: of /usr, what Python has there
    if "/usr" in found:
        del found["/usr"]
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        found |= dict.fromkeys(["/usr/bin", f"/usr/lib/{version}"])
    return list(found)


def _wrapped(program: str, nonce: str) -> str:
    """The program, which says at its very end that it came so far, and what it died of."""
    return (
        "import os, sys\n"
        f"_source, _nonce = {program!r}, {nonce!r}\n"
        "try:\n"
        "    exec(compile(_source, 'program', 'exec'), {'__name__': '__main__'})\n"
        "except BaseException as _error:\n"
        f"    os.write({_DONE}, f'{{type(_error).__name__}}: {{_error}}'[:300].encode())\n"
        "    os._exit(1)\n"
        f"os.write({_DONE}, _nonce.encode())\n"
        "os._exit(0)\n"
    )
