"""Programs that would do harm do none, and what is right passes."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from windtunnel.errors import InputError
from windtunnel.evaluate import sandbox
from windtunnel.evaluate.sandbox import Limits, run

SHORT = Limits(seconds=2)


HINDRANCE = sandbox._hindrance()
shut_in = pytest.mark.skipif(bool(HINDRANCE), reason=f"nothing is shut in here: {HINDRANCE}")


@shut_in
@pytest.mark.parametrize(
    "program",
    [
        "pass",
        "import collections, decimal, hashlib, heapq, itertools, json, math, random, re, typing",
        "open('a', 'w').write('x')\nassert open('a').read() == 'x'",
        "import threading\nt = threading.Thread(target=print); t.start(); t.join()",
        "assert __name__ == '__main__'",
        "print('x' * 10**6)",
    ],
)
def test_what_is_right_passes(program: str) -> None:
    outcome = run(program)
    assert outcome.passed and outcome.why == ""


@shut_in
@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("assert 1 == 2, 'unequal'", "AssertionError: unequal"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import os; os._exit(0)", "before its tests"),
        ("import ctypes; ctypes.string_at(0)", "signal 11"),
        ("import os; os.write(3, b'passed, says the program'); os._exit(0)", "says the program"),
        ("import os; os.write(4, b'no program began')", "Bad file descriptor"),
    ],
)
def test_what_is_wrong_does_not(program: str, why: str) -> None:
    outcome = run(program, SHORT)
    assert not outcome.passed and why in outcome.why


@shut_in
@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(60)"])
def test_a_program_that_does_not_end_is_ended(program: str) -> None:
    assert run(program, Limits(seconds=1)).why == "still running after 1 s"


@shut_in
def test_a_program_that_ignores_signals_and_leaves_children_leaves_nothing() -> None:
    mark = f"left-behind-{os.getpid()}"
    program = (
        "import os, signal, sys, time\n"
        "for number in range(1, 32):\n"
        "    if number not in (9, 19):\n"
        "        signal.signal(number, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    os.execv(sys.executable or 'python', ['{mark}', '-c', 'while True: pass'])\n"
        "time.sleep(60)\n"
    )
    assert not run(program, Limits(seconds=1)).passed
    assert mark not in subprocess.run(["ps", "axww"], capture_output=True, text=True).stdout


@shut_in
@pytest.mark.parametrize(
    "bomb",
    [
        "import os\nwhile True: os.fork()",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    ],
)
def test_a_fork_bomb_has_few_processes(bomb: str) -> None:
    most, over = 0, threading.Event()

    def count() -> None:
        nonlocal most
        while not over.wait(0.1):
            most = max(most, sum(name.isdigit() for name in os.listdir("/proc")))

    before = sum(name.isdigit() for name in os.listdir("/proc"))
    watcher = threading.Thread(target=count)
    watcher.start()
    outcome = run(bomb, SHORT)
    over.set()
    watcher.join()
    assert not outcome.passed
    assert most - before < 100  # others come and go on this machine


@shut_in
def test_it_has_so_much_memory_and_no_more() -> None:
    assert run("x = bytearray(200 << 20)").passed
    assert "MemoryError" in run("x = bytearray(600 << 20)").why
    assert "MemoryError" in run("x = []\nwhile True: x.append(bytearray(1 << 24))").why


@shut_in
@pytest.mark.parametrize(
    "filling",
    [
        "f = open('x', 'wb')\nwhile True: f.write(bytes(1 << 20))",
        "i = 0\nwhile True:\n    i += 1\n    open(f'f{i}', 'wb').write(bytes(1 << 18))",
        "import os\ni = 0\nwhile True:\n    i += 1\n    os.mkdir(f'd{i}')",
    ],
)
def test_a_program_that_fills_the_disk_fills_its_own(filling: str) -> None:
    before = os.statvfs("/tmp").f_bavail
    outcome = run(filling, Limits(seconds=10))
    assert "OSError" in outcome.why
    freed = os.statvfs("/tmp")
    assert before - freed.f_bavail < (512 << 20) // freed.f_bsize  # others write here, too


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@shut_in
def test_it_reaches_no_network_not_even_this_machine(listener: int) -> None:
    reach = "import socket; socket.create_connection(({!r}, {}), 1)"
    assert not run(reach.format("127.0.0.1", listener)).passed
    assert not run(reach.format("192.0.2.1", 80)).passed
    subprocess.run([sys.executable, "-c", reach.format("127.0.0.1", listener)], check=True)


@shut_in
def test_it_reads_and_deletes_no_file_of_others(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o777)
    tmp_path.chmod(0o777)
    for attempt in (
        f"open({str(secret)!r}).read()",
        f"import os; os.remove({str(secret)!r})",
        f"import shutil; shutil.rmtree({str(tmp_path)!r})",
        "open('/etc/passwd').read()",
        "import os; os.listdir('/etc')",
        "import os; os.listdir('/proc')",
        "import os; os.listdir('/home')",
    ):
        assert not run(attempt, SHORT).passed, attempt
    assert secret.read_text() == "x"


@shut_in
def test_what_it_sees_it_cannot_change() -> None:
    library = str(Path(os.__file__).resolve())
    for attempt in (
        f"open({library!r}, 'a').write('x')",
        f"import os; os.remove({library!r})",
        f"import os; os.chmod({library!r}, 0o777)",
        "import os; os.rename('/lib', '/lob')",
    ):
        assert not run(attempt, SHORT).passed, attempt
    assert run(f"open({library!r}).read()").passed


@shut_in
@pytest.mark.parametrize(
    "escape",
    [
        "import os\nos.chroot('/work')",
        "import os\nos.setuid(0)",
        "import os\nos.kill(1 if os.getpid() != 1 else 2, 9)",
        "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/work', b'tmpfs', 0, None) == 0",
        "import ctypes\nassert ctypes.CDLL(None).umount2(b'/lib', 2) == 0",
        "import ctypes\nassert ctypes.CDLL(None).sethostname(b'x', 1) == 0",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    ],
)
def test_it_gets_no_rights(escape: str) -> None:
    assert not run(escape, SHORT).passed


@shut_in
def test_nothing_of_the_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    assert run("import os; assert 'A_SECRET' not in os.environ").passed


def test_where_nothing_can_be_shut_in_nothing_runs_unless_it_is_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sandbox, "_hindrance", lambda: "no namespaces here")
    mark = tmp_path / "mark"
    with pytest.raises(InputError, match=r"no namespaces here.*--trust"):
        run(f"open({str(mark)!r}, 'w')")
    assert not mark.exists()
    assert run(f"open({str(mark)!r}, 'w')", trust=True).passed and mark.exists()
    assert run("while True: pass", Limits(seconds=1), trust=True).why.startswith("still running")
