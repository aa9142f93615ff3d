"""Where the fleets of this process train: on this machine, or on a cluster."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from windtunnel.choices import Table
from windtunnel.errors import InputError

if TYPE_CHECKING:
    from windtunnel.tunnel.fleet.workers import Workers


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A kind of workers. `start` is given the address behind `://`, empty where there is none."""

    name: str
    help: str
    start: "Callable[[str], Workers]"


def _here(address: str) -> "Workers":
    from windtunnel.tunnel.fleet.processes import local_workers

    if address:
        raise InputError(f"--on here://{address}: expected no address")
    return local_workers()


def _ray(address: str) -> "Workers":
    from windtunnel.tunnel.fleet.actors import ray_workers

    return ray_workers(address)


PLACES = Table(
    "place",
    (
        _Place(name="here", help="processes of this machine", start=_here),
        _Place(name="ray", help="actors of a Ray cluster", start=_ray),
    ),
)
_chosen = "here"


def train_on(where: str) -> None:
    """Have the fleets of this process train on a place, `here`, `ray` or `ray://HOST:PORT`. Raises
    InputError for a place that is not known.
    """
    global _chosen
    PLACES.choose(where.partition("://")[0], f"--on {where}")
    _chosen = where


def workers() -> "Workers":
    """The workers of this process, which are started at the first call, and anew where none of
    them is left.
    """
    if _started(_chosen).are_gone:
        _started.cache_clear()
    return _started(_chosen)


@functools.cache
def _started(where: str) -> "Workers":
    name, _, address = where.partition("://")
    return PLACES[name].start(address)
