"""The table of devices: what is known of each, and one more that is known at once everywhere."""

import pytest

from windtunnel.devices import (
    DEVICES,
    GB,
    QUANTISATIONS,
    TARGETS,
    Device,
    Target,
    bytes_of,
    device_named,
    known_peak,
)
from windtunnel.errors import InputError


@pytest.mark.parametrize(
    ("reported", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA T4", None),
        ("", None),
    ],
)
def test_a_gpu_is_known_by_the_name_that_its_driver_reports(
    reported: str, peak: float | None
) -> None:
    assert known_peak(reported) == peak


def test_a_device_more_is_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    new = Device(
        name="x900", help="a GPU", kind="cuda", peak=2e15, memory=180 * GB, reported_as="X900"
    )
    monkeypatch.setitem(DEVICES, new.name, new)
    assert known_peak("NVIDIA X900") == 2e15
    assert DEVICES["x900"] is new


@pytest.mark.parametrize(
    ("text", "name"),
    [("H100", "h100"), ("RTX 4090", "rtx4090"), ("a100_40GB", "a100-40gb"), ("cpu", "cpu")],
)
def test_known_by_what_people_write(text: str, name: str) -> None:
    assert device_named(text, "--device").name == name
    assert DEVICES["rtx4090"].memory == 24 * GB


def test_an_unknown_device_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"--device h10: .*h200, h100, .*cpu; did you mean 'h100'"):
        device_named("h10", "--device h10")


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


def test_a_target_more_is_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, "watch", Target(name="watch", help="a watch", gigabytes=2))
    assert bytes_of("watch") == GB


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"phone-6gb, .*did you mean 'phone-6gb'"):
        bytes_of("fone-6gb")
    with pytest.raises(InputError, match="f32, f16, q8, q4"):
        QUANTISATIONS["q5"]
