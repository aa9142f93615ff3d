"""Run as a program of its own, never imported: shut a Python program in, run it, and say what came
of it.

    python -I -S jail.py < ORDER.json

On Linux the program lives in namespaces of its own: it sees no network, no process but those that
it starts, and of the files only Python and the system's libraries, which it cannot write, and an
empty folder in memory. It runs as a user that owns nothing, with limits of time, memory, files and
processes; when its first process ends, the kernel ends all others. `sandbox.py` says more.

What goes wrong before the program runs is said as `refused`: then nothing was run.
"""

import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import sys
import time

# of linux/sched.h, linux/mount.h and linux/prctl.h
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
_NEWPID, _NEWNET = 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _REMOUNT = 1, 2, 4, 32
_BIND, _REC, _PRIVATE, _DETACH = 4096, 16384, 1 << 18, 2
_PDEATHSIG, _NO_NEW_PRIVS = 1, 38
# What Python needs beside its own folder, where the system has it.
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_FIRST_USER = 1 << 30  # ids of users whom no system has, one for each program that runs
_DONE = 3  # the file descriptor on which a program says that it came to its end
_REFUSED = 4  # that on which it is said why no program began; none has it


def main() -> None:
    """Read the order, carry it out, and print {refused, passed, why}."""
    order = json.load(sys.stdin)
    said, ends = os.pipe()
    why, refuses = os.pipe()
    try:
        if order["shut_in"]:
            _unshare()
        child = os.fork()
        if child == 0:
            _become_the_program(order, ends, refuses)
        os.close(ends)
        os.close(refuses)
    except OSError as error:
        print(json.dumps({"refused": f"{error.strerror} ({error.filename or 'namespaces'})"}))
        return
    outcome = _outcome(order, child, said)
    refused = os.read(why, 4096).decode("utf-8", "replace")
    print(json.dumps({"refused": refused} if refused else outcome))


def _outcome(order: dict, child: int, said: int) -> dict:
    """Wait for the program, at most as long as it may take."""
    until, heard = time.monotonic() + order["seconds"], b""
    status, timed_out = None, False
    while status is None:
        ready, _, _ = select.select([said], [], [], 0.01)
        if ready and len(heard) < 4096:
            heard += os.read(said, 4096)
        ended, found = os.waitpid(child, os.WNOHANG)
        if ended:
            status = found
        elif time.monotonic() > until:
            timed_out = True
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
    while len(heard) < 4096 and (more := _left(said)):
        heard += more
    if timed_out:
        return {"passed": False, "why": f"still running after {order['seconds']:g} s"}
    if os.WIFSIGNALED(status):
        return {"passed": False, "why": f"killed by signal {os.WTERMSIG(status)}"}
    if order["nonce"].encode() in heard and os.WEXITSTATUS(status) == 0:
        return {"passed": True, "why": ""}
    lines = [line for line in heard.decode("utf-8", "replace").splitlines() if line.strip()]
    return {"passed": False, "why": lines[-1][:200] if lines else "it ended before its tests did"}


def _left(said: int) -> bytes:
    ready, _, _ = select.select([said], [], [], 0)
    return os.read(said, 4096) if ready else b""


def _become_the_program(order: dict, ends: int, refuses: int) -> None:
    """In the child: shut in, and run. Never returns."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        # out of the way first: each may lie where the other is to be
        ends, refuses = (fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (ends, refuses))
        os.dup2(ends, _DONE)
        os.dup2(refuses, _REFUSED, inheritable=False)
        os.closerange(_REFUSED + 1, 1 << 16)
        os.setsid()
        if order["shut_in"]:
            _build_room(order)
        os.chdir(order["folder"])
        if order["shut_in"]:
            _give_up_rights()
        _limit(order)
        _libc().prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _libc().prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
        environment = {"PATH": "/nowhere", "HOME": order["folder"], "TMPDIR": order["folder"]}
        flags = ["-I", "-S", "-B"]
        os.execve(order["python"], ["python", *flags, "-c", order["program"]], environment)
    except BaseException as error:
        reason = f"{getattr(error, 'strerror', None) or error} ({getattr(error, 'filename', '')})"
        os.write(_REFUSED, reason.splitlines()[0].encode())
    finally:
        os._exit(1)


def _unshare() -> None:
    """Leave the namespaces that others are in. Root needs no namespace of users for it, and takes
    none: its rights are given up for good later on.
    """
    user, group, root = os.getuid(), os.getgid(), os.getuid() == 0
    _checked(
        _libc().unshare(_NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET | (0 if root else _NEWUSER))
    )
    if not root:
        for file, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{file}", "w", encoding="utf-8") as stream:
                stream.write(text)
        # a program that is shut in makes no namespaces of its own
        with open("/proc/sys/user/max_user_namespaces", "w", encoding="utf-8") as stream:
            stream.write("0")


def _build_room(order: dict) -> None:
    """A root folder in memory with what Python needs, and nothing of what was there before."""
    room, folder = order["room"], order["folder"]
    _mount("none", "/", None, _REC | _PRIVATE)
    size = f"size={order['disk']},nr_inodes=2048,mode=755"
    _mount("tmpfs", room, "tmpfs", _NOSUID | _NODEV, size)
    for path in (*_LIBRARIES, *order["prefixes"]):
        _show(path, room)
    os.mkdir(f"{room}/dev")
    open(f"{room}/dev/null", "wb").close()
    _mount("/dev/null", f"{room}/dev/null", None, _BIND)
    os.makedirs(room + folder, exist_ok=True)
    os.chmod(room + folder, 0o777)
    os.mkdir(f"{room}/before")
    _checked(_libc().pivot_root(room.encode(), f"{room}/before".encode()), "pivot_root")
    os.chdir("/")
    _checked(_libc().umount2(b"/before", _DETACH), "umount")
    os.rmdir("/before")


def _show(path: str, room: str) -> None:
    """Let a folder be seen at the same place, to read."""
    if os.path.islink(path):
        target = os.readlink(path)
        if not os.path.lexists(room + path):
            os.makedirs(os.path.dirname(room + path), exist_ok=True)
            os.symlink(target, room + path)
        return
    if not os.path.isdir(path) or os.path.isdir(room + path):
        return
    os.makedirs(room + path)
    _mount(path, room + path, None, _BIND | _REC)
    # flags of the file system itself cannot be taken away, only added to
    held = os.statvfs(path).f_flag & ~_RDONLY
    _mount("none", room + path, None, _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV | held)


def _give_up_rights() -> None:
    """Root becomes a user that no file belongs to; any other keeps its id, and has no rights in
    its namespaces once it begins another program.
    """
    if os.getuid() != 0:
        return
    os.setgroups([])
    for user in (_FIRST_USER + os.getppid() % (1 << 20), 65534):
        try:
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            return
        except OSError:
            if user == 65534:
                raise


def _limit(order: dict) -> None:
    limits = {
        "RLIMIT_CPU": int(order["seconds"]) + 1,
        "RLIMIT_AS": order["memory"],
        "RLIMIT_FSIZE": order["disk"],
        "RLIMIT_NPROC": order["processes"],
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }
    for name, most in limits.items():
        number = getattr(resource, name, None)
        if number is not None:
            hard = resource.getrlimit(number)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(number, (most, most))


def _mount(source: str, target: str, kind: "str | None", flags: int, data: str = "") -> None:
    done = _libc().mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _checked(done, f"mount {target}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str = "unshare") -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


if __name__ == "__main__":
    main()
