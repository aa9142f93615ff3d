"""What a run will take, as `windtunnel train --dry-run --json` prints it."""

from windtunnel.results.record import Record
from windtunnel.results.run import Engine


class RunMemory(Record):
    """Bytes that training holds at its peak, where the backward pass begins."""

    states: int
    """Values, gradients and the optimiser's state, in fp32."""
    copies: int
    """Values and gradients in 16 bits, which products take and give."""
    activations: int
    """What the layers keep for their backward pass."""
    head: int
    """The logits that exist at once, and their derivatives."""
    total: int
    """All of these."""
    validation: int
    """While it is evaluated: states, copies, one layer and the head."""
    of: int | None
    """Memory of the device; null where it is not known."""


class RunDevices(Record):
    """How many devices of one kind hold the run, the model cut over them, with one window through
    it at once and layers computed again.
    """

    device: str
    """Its name."""
    memory: int
    """Bytes of one."""
    room: int
    """Bytes of it that are filled; the rest is the allocator's and the kernels'."""
    devices: int | None
    """Null where one window alone is too much for a device: it would have to be split over
    several (context parallelism), which windtunnel does not do.
    """
    states: int
    """Bytes of each of them, as in `RunMemory`; where `devices` is null, of one of a great many."""
    copies: int
    """The same."""
    activations: int
    """The same."""
    head: int
    """The same."""
    total: int
    """All of these."""


class RunTraffic(Record):
    """Bytes of a step on several devices, counted and not measured."""

    tokens: int
    """Of the step: the largest batch."""
    within: int
    """That each device receives of the others on its machine."""
    between: int
    """That each machine receives of all others."""


class RunSpeed(Record):
    """How fast it will train."""

    share: float
    """Of the device's peak of matrix products."""
    tokens_per_s: float
    """Tokens a second."""
    hours: float
    """For the whole run."""
    origin: str
    """Where the share comes from: asked for, or the run that it was read off."""


class RunCost(Record):
    """What a run will take. Nothing is trained for it."""

    name: str
    """From the recipe."""
    params: int
    """Parameters without embedding and head."""
    params_total: int
    """All parameters."""
    active: int
    """Of `params` those that one token goes through; fewer where there are experts."""
    tokens: int
    """Of the whole run."""
    steps: int
    """Updates."""
    flops: float
    """Of the whole run, by every matrix product."""
    engine: Engine
    """What it would be computed with on this machine."""
    devices: int
    """On which it would train."""
    machines: int
    """That have them: each has the whole model, cut over its devices."""
    memory: RunMemory
    """While it trains, of one device."""
    needs: tuple[RunDevices, ...]
    """GPUs that would hold it, from the smallest to the first of which one is enough."""
    traffic: RunTraffic | None
    """Null for one device."""
    checkpoint: int
    """Bytes of one checkpoint: weights, and what the optimiser remembers."""
    checkpoints: int
    """Checkpoints that are kept at once, at most."""
    disk: int
    """Bytes of the run's folder at its largest."""
    on_host: int
    """Bytes of the host's memory, for each device, that a checkpoint takes while it is written: a
    copy of it, beside which training goes on."""
    speed: RunSpeed | None
    """Null where nothing tells: no share was asked for, and the lab has no run on such a device."""
