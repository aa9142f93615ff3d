"""What a model costs on a device: speed, hours and memory to train, bytes to serve."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from windtunnel.devices import DEVICES, QUANTISATIONS, Device, Quantisation
from windtunnel.errors import InputError
from windtunnel.model.memory import training_memory
from windtunnel.model.shape import count, flops_per_token
from windtunnel.plan.devices import serving, speed_of, training
from windtunnel.plan.evidence import Evidence
from windtunnel.plan.request import Request
from windtunnel.recipe import Recipe


def test_a_cpu_is_as_fast_as_the_labs_own_runs(evidence: Evidence) -> None:
    speed = speed_of(evidence, Request(flops=1e12))
    assert speed is not None and speed.device.name == "cpu"
    assert speed.each == pytest.approx(6e12 / 60) and speed.provenance.study == "scaling"
    assert speed.flops_in(2) == pytest.approx(2 * 3600 * 1e11)
    assert speed.hours_for(3.6e14) == pytest.approx(1)
    without = replace(evidence, core_speed=None)
    assert speed_of(without, Request(flops=1e12)) is None
    with pytest.raises(InputError, match=r"--device cpu: .*give --flops"):
        speed_of(without, Request(hours=1, device="cpu"))
    with pytest.raises(InputError, match="--mfu"):
        speed_of(evidence, Request(hours=1, device="cpu", share=0.5))


def test_training_costs_hours_money_and_memory(
    evidence: Evidence, recipe: Callable[..., Recipe]
) -> None:
    request = Request(flops=1e18, device="h100", devices=2, share=0.5, price=3.0)
    cost = training(recipe(), 10**18, speed_of(evidence, request), request)
    assert cost.flops_per_second == 989e12
    assert cost.hours == pytest.approx(1e18 / 989e12 / 3600)
    assert cost.cost == pytest.approx(2 * 3.0 * cost.hours, rel=1e-9)
    share = recipe().train.batch // 2
    expected = training_memory(recipe().model, share, context=32, ranks=2)
    assert cost.bytes.micro_batch == share
    assert (cost.bytes.states, cost.bytes.total) == (expected.states, expected.total)


def test_what_does_not_fit_goes_through_by_windows_and_is_computed_again(
    evidence: Evidence, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Device(name="tiny", help="a GPU", kind="cuda", peak=1e12, memory=10**6)
    monkeypatch.setitem(DEVICES, "tiny", tiny)
    request = Request(flops=1e12, device="tiny")
    memory = training(recipe(), 10**12, speed_of(evidence, request), request).bytes
    assert memory.micro_batch == recipe().data.context and memory.recompute


def test_serving_a_token_is_a_third_of_training_on_it_and_its_cache_has_sixteen_bits(
    recipe: Callable[..., Recipe],
) -> None:
    model = recipe().model
    served = serving(model, 32)
    assert served.flops_per_token == flops_per_token(model, 32) // 3
    # keys and values, of every layer and position, two bytes each
    assert served.cache_bytes == 2 * 2 * model.depth * model.kv_heads * model.head_size * 32
    assert served.bytes["f32"] == 4 * count(model).params_total


def test_a_device_is_taken_at_a_quarter_of_its_peak_unless_a_share_is_asked_for(
    evidence: Evidence,
) -> None:
    usual = speed_of(evidence, Request(hours=1, device="h100", devices=3))
    assert usual and usual.each == 0.25 * DEVICES["h100"].peak
    assert usual.flops_per_second == 3 * usual.each
    assert usual.hours_for(usual.flops_in(2.0)) == pytest.approx(2.0)
    assert usual.memory == DEVICES["h100"].memory


def test_without_a_device_the_bytes_alone_are_known(recipe: Callable[..., Recipe]) -> None:
    cost = training(recipe(), 10**12, None, Request(flops=1e12))
    assert (cost.device, cost.hours, cost.cost) == (None, None, None)
    assert cost.bytes.total > 0
    assert set(cost.model_dump()) == {"device", "hours", "cost", "bytes"}


def test_one_more_device_and_quantisation_are_priced_at_once(
    evidence: Evidence, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        DEVICES, "b200", Device(name="b200", help="a GPU", kind="cuda", peak=2e15, memory=10**11)
    )
    speed = speed_of(evidence, Request(hours=1, device="b200", share=0.5))
    assert speed is not None and speed.each == 1e15
    monkeypatch.setitem(
        QUANTISATIONS, "q2", Quantisation(name="q2", help="2 bits a weight", bytes=0.25)
    )
    served = serving(recipe().model, 32).bytes
    assert served["q2"] == pytest.approx(served["f32"] / 16, abs=1)
