"""What a model costs on a device: bytes as people type them, speed, hours and memory."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from windtunnel.choices import Table
from windtunnel.devices import DEVICES, GB, Device
from windtunnel.errors import InputError
from windtunnel.model.memory import training_memory
from windtunnel.plan.devices import (
    QUANTISATIONS,
    TARGETS,
    Quantisation,
    Target,
    bytes_of,
    serving,
    speed_of,
    training,
)
from windtunnel.plan.evidence import Evidence
from windtunnel.plan.request import Request
from windtunnel.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 5e8), ("2gb", 2e9), ("1.5 GB", 1.5e9), ("800000", 8e5), ("phone-6gb", 3e9)],
)
def test_bytes(text: str, size: float) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "-1GB", "many", "nan", "1e400", "0"])
def test_bytes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--fit-device"):
        bytes_of(text)


@pytest.mark.parametrize(
    ("table", "record"),
    [
        (TARGETS, Target(name="watch", help="a watch", gigabytes=2)),
        (QUANTISATIONS, Quantisation(name="q2", help="2.5 bits a weight", bytes=2.5 / 8)),
        (DEVICES, Device(name="b200", help="a GPU", kind="cuda", peak=2e15, memory=180 * GB)),
    ],
)
def test_one_more_is_one_record(
    table: Table[Any],
    record: Any,
    recipe: Callable[..., Recipe],
    evidence: Evidence,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(table, record.name, record)
    if table is TARGETS:
        assert bytes_of("watch") == GB
    elif table is QUANTISATIONS:
        assert serving(recipe().model, 32).bytes["q2"] > 0
    else:
        speed = speed_of(evidence, Request(hours=1, device="b200", share=0.5))
        assert speed is not None and speed.each == 1e15


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"phone-6gb, .*did you mean 'phone-6gb'"):
        bytes_of("fone-6gb")
    with pytest.raises(InputError, match="f32, f16, q8, q4"):
        QUANTISATIONS["q5"]


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
    expected = training_memory(recipe().model, recipe().train.batch)
    assert cost.bytes.micro_batch == recipe().train.batch
    assert (cost.bytes.states, cost.bytes.total) == (expected.states, expected.total)


def test_what_does_not_fit_goes_through_by_windows_and_is_computed_again(
    evidence: Evidence, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Device(name="tiny", help="a GPU", kind="cuda", peak=1e12, memory=10**6)
    monkeypatch.setitem(DEVICES, "tiny", tiny)
    request = Request(flops=1e12, device="tiny")
    memory = training(recipe(), 10**12, speed_of(evidence, request), request).bytes
    assert memory.micro_batch == recipe().data.context and memory.recompute


def test_without_a_device_the_bytes_alone_are_known(recipe: Callable[..., Recipe]) -> None:
    cost = training(recipe(), 10**12, None, Request(flops=1e12))
    assert (cost.device, cost.hours, cost.cost) == (None, None, None)
    assert cost.bytes.total > 0
    assert set(cost.model_dump()) == {"device", "hours", "cost", "bytes"}
