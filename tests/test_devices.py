"""The table of devices: what is known of each, and one more that is known at once everywhere."""

import pytest

from windtunnel.devices import DEVICES, GB, Device, device_named, known_peak
from windtunnel.errors import InputError


@pytest.mark.parametrize(
    ("reported", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
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
        name="b200", help="a GPU", kind="cuda", peak=2e15, memory=180 * GB, reported_as="B200"
    )
    monkeypatch.setitem(DEVICES, new.name, new)
    assert known_peak("NVIDIA B200") == 2e15
    assert DEVICES["b200"] is new


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
