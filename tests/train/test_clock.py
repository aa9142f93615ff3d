"""A process that was stopped did not train meanwhile, and its speed is what it was."""

import os
import signal
import subprocess
import sys
import time

from windtunnel.train.clock import RunningClock

PROGRAM = """
import time
from windtunnel.train import clock

clock._BEAT, clock._LONGEST = 0.02, 0.3
with clock.RunningClock() as running:
    begun, by_wall = running.now(), time.perf_counter()
    print("ready", flush=True)
    input()
    print(running.now() - begun, time.perf_counter() - by_wall, flush=True)
"""


def test_it_stands_while_the_process_is_stopped() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    time.sleep(1.5)
    os.kill(process.pid, signal.SIGCONT)
    out, _ = process.communicate("\n")
    running, by_wall = map(float, out.split())
    assert by_wall > 1.5
    assert running < by_wall - 1.2


def test_else_it_goes_as_any_clock() -> None:
    with RunningClock() as running:
        before, begun = time.perf_counter(), running.now()
        time.sleep(0.3)
        passed, after = running.now() - begun, time.perf_counter()
        assert 0.3 <= passed <= after - before
        looks = [running.now() for _ in range(1000)]
        assert looks == sorted(looks)
