"""What `--dry-run` of a run prints: what it would take."""

from typing import TYPE_CHECKING

from windtunnel.quantities import about, about_bytes, about_hours

if TYPE_CHECKING:
    from windtunnel.results.cost import RunCost, RunDevices

_PARTS = ("states", "copies", "activations", "head")  # of the memory


def print_cost(cost: "RunCost") -> None:
    """As a short table."""
    from windtunnel.model.memory import SPLIT  # brings what --help does without

    memory, speed = cost.memory, cost.speed
    sizes = f"{about(cost.params)} without embedding and head, {about(cost.params_total)} in all"
    if cost.active < cost.params:
        sizes += f"; a token goes through {about(cost.active)}"
    parts = ", ".join(f"{name} {about_bytes(getattr(memory, name))}" for name in _PARTS)
    held = f"{about_bytes(memory.total)}: {parts}; in a validation {about_bytes(memory.validation)}"
    if memory.of is not None:
        held += f"; the device has {about_bytes(memory.of)}"
    disk = (
        f"{about_bytes(cost.disk)} at most: {cost.checkpoints} checkpoints of "
        f"{about_bytes(cost.checkpoint)}"
    )
    disk += f"; writing one takes {about_bytes(cost.on_host)} of the host's memory"
    if cost.devices > 1:
        disk += " for each device"
    time = "not known: the lab has no run on such a device yet, and no --mfu was given"
    if speed:
        time = (
            f"{about_hours(speed.hours)}: {about(speed.tokens_per_s)} tokens/s at "
            f"{speed.share:.0%} of the peak, {speed.origin}"
        )
    if cost.devices > 1:
        held = f"{held}; on each of {cost.devices} devices, {cost.machines} machines"
    lines = {
        "parameters": sizes,
        "compute": f"{cost.flops:.3g} FLOPs: {about(cost.tokens)} tokens in {cost.steps:,} steps",
        "computed on": str(cost.engine),
        "memory": held,
        "disk": disk,
        "time": time,
    }
    if cost.traffic:
        between = f", and each machine {about_bytes(cost.traffic.between)} of the others"
        lines["traffic"] = (
            f"in a step of {about(cost.traffic.tokens)} tokens each device receives "
            f"{about_bytes(cost.traffic.within)} within its machine"
            f"{between if cost.machines > 1 else ''}"
        )
    print(f"{cost.name} would take:")
    for name, text in lines.items():
        print(f"  {name:12} {text}")
    print("  with one window through the model at once, and layers computed again:")
    for needed in cost.needs:
        print(f"    {needed.device:10} {_needed(needed)}")
    if any(needed.devices is None for needed in cost.needs):
        print(f"    {SPLIT}")


def _needed(needed: "RunDevices") -> str:
    if needed.devices is None:
        return (
            f"none: each would hold {about_bytes(needed.total)}, however many there are, where "
            f"{about_bytes(needed.room)} of {about_bytes(needed.memory)} can be filled"
        )
    parts = ", ".join(f"{name} {about_bytes(getattr(needed, name))}" for name in _PARTS)
    several = " each" if needed.devices > 1 else ""
    return (
        f"{needed.devices} of {about_bytes(needed.memory)}: {about_bytes(needed.total)}{several} "
        f"({parts})"
    )
