"""What a model costs on a device: hours and money to train, bytes to train and to serve."""

from dataclasses import dataclass

from windtunnel.devices import DEVICES, QUANTISATIONS, Device
from windtunnel.errors import InputError
from windtunnel.model.memory import through_at_once, training_memory
from windtunnel.model.shape import count, flops_per_token
from windtunnel.plan.evidence import Evidence
from windtunnel.plan.request import Request
from windtunnel.recipe import Model, Recipe
from windtunnel.results.plan import Provenance, Serving, Training, TrainingBytes

# The paper's 2.4B on A100s comes to 78 to 87 TFLOP/s a device, 25 to 28% of the peak.
ASSUMED_SHARE = 0.25
_CACHED = 2  # bytes of a key's or value's number in the cache, f16


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a plan's run would train, and why that is expected."""

    device: Device
    devices: int
    share: float | None
    """Of the data sheet's peak; None for a CPU, whose speed was measured."""
    each: float
    """FLOP/s of one device."""
    provenance: Provenance

    @property
    def flops_per_second(self) -> float:
        """Of all devices together."""
        return self.each * self.devices

    @property
    def memory(self) -> int | None:
        """Of one device, bytes; None: not known."""
        return self.device.memory or None

    def flops_in(self, hours: float) -> float:
        """FLOPs that so many hours hold."""
        return hours * 3600 * self.each * self.devices

    def hours_for(self, flops: float) -> float:
        """Hours that so many FLOPs take."""
        return flops / self.flops_per_second / 3600


def speed_of(evidence: Evidence, request: Request) -> Speed | None:
    """How fast the device that was asked for trains; None where none was, and the lab has no runs
    to read a speed from. Raises InputError where a CPU was asked for that nothing is known of.
    """
    if request.device is None and evidence.core_speed is None:
        return None
    device = DEVICES[request.device or "cpu"]
    if not device.peak:
        return _measured_speed(evidence, request, device)
    share, why = request.share, "asked for"
    if share is None:
        share, why = ASSUMED_SHARE, "assumed: the paper's own run reached 25 to 28% of an A100"
    how = f"{share:.0%} of the data sheet's {device.peak:.3g} bf16 FLOP/s, {why}"
    return Speed(
        device=device,
        devices=request.devices,
        share=share,
        each=device.peak * share,
        provenance=Provenance(how=how),
    )


def _measured_speed(evidence: Evidence, request: Request, device: Device) -> Speed:
    """As fast as the lab's own runs were on one core."""
    if evidence.core_speed is None:
        raise InputError(
            "--device cpu: its speed is read off a lab's own runs, and there are none; give "
            "--flops instead"
        )
    if request.share is not None:
        raise InputError(
            "--mfu: a CPU is as fast as the lab's own runs were; no data sheet gives a peak to "
            "take a share of"
        )
    return Speed(
        device=device,
        devices=request.devices,
        share=None,
        each=evidence.core_speed.flops_per_second,
        provenance=evidence.core_speed.provenance,
    )


def training(recipe: Recipe, flops: int, speed: Speed | None, request: Request) -> Training:
    """What training a recipe costs, which takes `flops`."""
    memory = _training_bytes(recipe, speed)
    if speed is None:
        return Training(device=None, hours=None, cost=None, bytes=memory)
    hours = speed.hours_for(flops)
    cost = hours * speed.devices * request.price if request.price is not None else None
    return Training(
        device=speed.device.name,
        devices=speed.devices,
        share=speed.share,
        memory=speed.device.memory or None,
        flops_per_second=speed.flops_per_second,
        hours=hours,
        cost=cost,
        bytes=memory,
    )


def _training_bytes(recipe: Recipe, speed: Speed | None) -> TrainingBytes:
    """Of one device, with as much through the model at once as the engine would choose on it.
    Several share every batch, and the model is cut over them.
    """
    model, context, optimizer = recipe.model, recipe.data.context, recipe.optimizer.kind
    kind = speed.device.kind if speed else "cpu"
    ranks = speed.devices if speed else 1
    windows = max(1, recipe.train.batch // context // ranks)
    micro_batch, recompute = through_at_once(
        model,
        windows * context,
        context,
        device=kind,
        memory=speed.memory if speed else None,
        optimizer=optimizer,
        ranks=ranks,
    )
    memory = training_memory(
        model,
        micro_batch,
        context=context,
        device=kind,
        optimizer=optimizer,
        recompute=recompute,
        ranks=ranks,
    )
    return TrainingBytes(
        micro_batch=micro_batch,
        recompute=recompute,
        states=memory.states,
        copies=memory.copies,
        activations=memory.activations,
        head=memory.head,
        total=memory.total,
    )


def serving(model: Model, context: int) -> Serving:
    """Bytes of the weights by quantisation and of a full cache of keys and values in f16; FLOPs
    of a token that is read or written at half of the context.
    """
    params = count(model).params_total
    sizes = {name: round(params * kind.bytes) for name, kind in QUANTISATIONS.items()}
    keys_and_values = 2 * model.depth * model.kv_heads * model.head_size
    return Serving(
        bytes=sizes,
        cache_bytes=_CACHED * keys_and_values * context,
        # training costs three times the forward pass
        flops_per_token=flops_per_token(model, context) // 3,
    )
