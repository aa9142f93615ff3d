"""A rank that an actor of a Ray cluster starts: `python -m windtunnel.train.rank COMMAND...` is
that command of windtunnel, and ends where its actor does.
"""

import os
import runpy
import sys
import threading


def main() -> None:
    """Carry out the command that stands behind the module's name."""
    threading.Thread(target=_end_with_the_actor, daemon=True).start()
    runpy.run_module("windtunnel", run_name="__main__")


def _end_with_the_actor() -> None:
    """The actor holds the other end of this process's stdin, and writes nothing: there is an end of
    it once the actor is gone, however it went. The others then find this rank gone, too.
    """
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
