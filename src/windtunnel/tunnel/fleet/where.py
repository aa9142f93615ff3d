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


def _here(_: str) -> "Workers":
    from windtunnel.tunnel.fleet.processes import local_workers

    return local_workers()


def _ray(address: str) -> "Workers":
    from windtunnel.tunnel.fleet.actors import ray_workers

    return ray_workers(address)


HERE = "here"
PLACES = Table(
    "place",
    (
        _Place(name=HERE, help="processes of this machine", start=_here),
        _Place(name="ray", help="actors of a Ray cluster", start=_ray),
    ),
)
_chosen = HERE


def place_of(where: str) -> tuple[str, str]:
    """`ray://HOST:PORT` -> the place's name and its address, empty where there is none. Raises
    InputError for a place that is not known, and for an address of this machine.
    """
    name, _, address = where.partition("://")
    PLACES.choose(name, f"--on {where}")
    if name == HERE and address:
        raise InputError(f"--on {where}: expected no address")
    return name, address


def train_on(where: str) -> None:
    """Have the fleets of this process train on a place, `here`, `ray` or `ray://HOST:PORT`. Raises
    InputError as `place_of` does.
    """
    global _chosen
    place_of(where)
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
    name, address = place_of(where)
    return PLACES[name].start(address)
