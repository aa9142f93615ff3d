"""What a run will take, before it is begun: memory by part, disk, and time at a share of the peak
that was asked for, or that the lab's own runs reached.
"""

import statistics
from collections.abc import Iterator
from pathlib import Path

from windtunnel.devices import DEVICES
from windtunnel.errors import InputError
from windtunnel.model.memory import (
    devices_that_hold,
    layer_bytes,
    optimizer_bytes,
    room_of,
    training_memory,
)
from windtunnel.model.shape import active_params, count, flops_per_token
from windtunnel.model.traffic import traffic
from windtunnel.recipe import Recipe
from windtunnel.results.cost import RunCost, RunDevices, RunMemory, RunSpeed, RunTraffic
from windtunnel.results.run import Engine
from windtunnel.train.device import choose_engine, device_memory, matrix_peak
from windtunnel.train.parallel import check_shares
from windtunnel.train.run import Run, read_runs

_WHOLE = 4  # bytes of a number of a checkpoint, fp32
_LINE = 110  # bytes of a step in metrics.jsonl
_FEWEST = 20  # steps that a speed is read off
_TOLD = ("rtx4090", "l40s", "h100", "h200", "b200")  # GPUs of which it is told how many it takes
_MANY = 1 << 20  # devices, over which what can be spread is as nothing


def cost_of(
    recipe: Recipe, lab: Path, share: float | None = None, devices: int = 1, machines: int = 1
) -> RunCost:
    """What training a recipe on this machine will take, or on `machines` such machines with
    `devices` of its devices in all. `share`: of the peak, where it is asked for; else that of the
    lab's runs on such a device whose size is the nearest. Raises InputError for a device that is
    not there, and for a number that can't share a batch.
    """
    if devices % machines:
        raise InputError(f"--devices {devices}: not as many on each of {machines} machines")
    check_shares(recipe, devices)
    each_machine = devices // machines
    engine = choose_engine(recipe, world=devices, cut=each_machine)
    numbers = count(recipe.model)
    weights = _WHOLE * numbers.params_total
    state = optimizer_bytes(recipe.model, recipe.optimizer.kind)
    # a new one is written before the oldest is removed
    kept = recipe.train.keep + 1 + len(recipe.train.branch_points)
    each = flops_per_token(recipe.model, recipe.data.context)
    steps = recipe.steps_in(recipe.total_tokens)
    return RunCost(
        name=recipe.name,
        params=numbers.params,
        params_total=numbers.params_total,
        active=active_params(recipe.model),
        tokens=recipe.total_tokens,
        steps=steps,
        flops=float(each) * recipe.total_tokens,
        engine=engine,
        memory=_memory(recipe, engine, each_machine),
        devices=devices,
        machines=machines,
        needs=tuple(_needs(recipe)),
        traffic=_traffic(recipe, engine, each_machine, machines) if devices > 1 else None,
        checkpoint=weights + state,
        checkpoints=kept,
        disk=kept * (weights + state) + steps * _LINE,
        on_host=_on_host(weights, state, each_machine, devices),
        speed=_speed(recipe.total_tokens, each, lab, engine, share, devices),
    )


def _on_host(weights: int, state: int, each_machine: int, devices: int) -> int:
    """Of each device, while its checkpoint is written beside training."""
    # ranks make each file in memory
    file = max(weights, state) if devices > 1 else 0
    return (weights + state + file) // each_machine


def _needs(recipe: Recipe) -> Iterator[RunDevices]:
    """From the smallest device to the first of which one is enough."""
    context, optimizer = recipe.data.context, recipe.optimizer.kind
    for name in _TOLD:
        device = DEVICES[name]
        devices = devices_that_hold(
            recipe.model, device.memory, context=context, optimizer=optimizer
        )
        held = training_memory(
            recipe.model,
            context,
            context=context,
            optimizer=optimizer,
            recompute=True,
            ranks=devices or _MANY,
        )
        yield RunDevices(
            device=name,
            memory=device.memory,
            room=round(room_of(device.memory)),
            devices=devices,
            states=held.states,
            copies=held.copies,
            activations=held.activations,
            head=held.head,
            total=held.total,
        )
        if devices == 1:
            return


def _traffic(recipe: Recipe, engine: Engine, ranks: int, machines: int) -> RunTraffic:
    """Of a step of the largest batch."""
    batch = max(recipe.batches)
    parts = batch // (ranks * machines * engine.micro_batch)
    sent = traffic(recipe.model, parts, ranks, machines, engine.precision)
    return RunTraffic(tokens=batch, within=sent.within, between=sent.between)


def _memory(recipe: Recipe, engine: Engine, ranks: int) -> RunMemory:
    model, context = recipe.model, recipe.data.context
    held = training_memory(
        model,
        engine.micro_batch,
        context=context,
        device=engine.device,
        optimizer=recipe.optimizer.kind,
        precision=engine.precision,
        recompute=engine.recompute,
        ranks=ranks,
    )
    layer = engine.micro_batch * layer_bytes(model, context, engine.device, engine.precision)
    return RunMemory(
        states=held.states,
        copies=held.copies,
        activations=held.activations,
        head=held.head,
        total=held.total,
        validation=held.states + held.copies + layer + held.head,
        of=device_memory(engine.device),
    )


def _speed(
    tokens: int, each: int, lab: Path, engine: Engine, share: float | None, devices: int
) -> RunSpeed | None:
    """Of a run of so many tokens, with so many FLOPs each, on so many devices. That they wait for
    each other is in the share that one asks for, and not in that of a run of one.
    """
    origin = "asked for"
    if share is None:
        found = _nearest(each, lab, engine)
        if found is None:
            return None
        run, share = found
        origin = f"as run {run.id} ({run.recipe.name}) reached"
    tokens_per_s = devices * share * matrix_peak(engine) / each
    return RunSpeed(
        share=share,
        tokens_per_s=tokens_per_s,
        hours=tokens / tokens_per_s / 3600,
        origin=origin,
    )


def _nearest(wanted: int, lab: Path, engine: Engine) -> tuple[Run, float] | None:
    """The lab's run on such a device whose FLOPs a token are the nearest, and its share."""

    def apart(run: Run) -> float:
        each = flops_per_token(run.recipe.model, run.recipe.data.context)
        return max(each / wanted, wanted / each)

    # no more metrics are read than are needed: a lab may have hundreds of runs
    for run in sorted(read_runs(lab).runs, key=apart):
        begun = run.begun_on()
        if begun is None or begun.members > 1:
            continue
        if (begun.device, begun.precision) != (engine.device, engine.precision):
            continue
        shares = [line.peak_share for line in run.steps()]
        if len(shares) >= _FEWEST:
            # the first steps compile what there is to compile
            return run, statistics.median(shares[len(shares) // 2 :])
    return None
