"""A Ray cluster: how it is reached, what it has, and what must be alike on its machines."""

import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import windtunnel
from windtunnel.errors import InputError
from windtunnel.recipe import RESULTS_VERSION


def connected(address: str) -> Any:
    """Ray, connected to the cluster whose client server is at HOST:PORT, or without an address to
    the one that this machine belongs to. Raises InputError where there is none.
    """
    # Else it prints on our stdout what its own processes say, such as of an actor that died. Read
    # once, when it is imported.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
    try:
        import ray
    except ImportError:
        raise InputError(
            f'{named(address)}: Ray is not installed; expected `pip install "windtunnel[ray]"`'
        ) from None
    try:
        ray.init(
            address=f"ray://{address}" if address else "auto",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"{named(address)}: no Ray cluster answers: {first_line(error)} (start one with "
            "`ray start --head`, and `ray start --address=HOST:6379` on the other machines)"
        ) from None
    return ray


def named(address: str) -> str:
    """A cluster, as a person has typed it."""
    return f"--on ray://{address}" if address else "--on ray"


def offered(ray: Any, what: str) -> int:
    """Of all nodes that are there."""
    return int(ray.cluster_resources().get(what, 0))


def devices_of(ray: Any, name: str, gpus: bool = True) -> tuple[str, int]:
    """What can be used of a cluster, and how many: "GPU", or "CPU" where it has none or they are
    not wanted. Raises InputError where it has neither.
    """
    for what in ("GPU", "CPU") if gpus else ("CPU",):
        if there := offered(ray, what):
            return what, there
    raise InputError(f"{name}: the Ray cluster has neither a core nor a GPU to use")


def versions() -> tuple[str, ...]:
    """What must be the same on all machines."""
    return (
        f"windtunnel {windtunnel.__version__}",
        f"results of version {RESULTS_VERSION}",
        # of one version a CPU and a GPU have other builds
        f"torch {version('torch').partition('+')[0]}",
        f"Python {sys.version_info.major}.{sys.version_info.minor}",
    )


def check_versions(theirs: tuple[str, ...], host: str) -> None:
    """Raises InputError where another machine has other ones."""
    if theirs != versions():
        raise InputError(
            f"the worker on {host} has {', '.join(theirs)}; expected {', '.join(versions())}, "
            "as here"
        )


def not_seen(path: Path, host: str) -> InputError:
    """Where a machine does not see the lab."""
    return InputError(
        f"{path}: not there on {host}: several machines need the lab in a folder that all of them "
        "share, under the same path"
    )


def first_line(error: Exception) -> str:
    """Ray's own messages go on for a page."""
    return str(error).strip().partition("\n")[0]
