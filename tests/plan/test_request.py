"""What a person asks a plan for: contradictions are said, and every request has a name."""

from typing import Any

import pytest

from windtunnel.errors import InputError
from windtunnel.plan.request import Request, asked_by, name_of


@pytest.mark.parametrize(
    ("request_of", "said"),
    [
        ({"flops": 1e12, "hours": 1.0}, "--flops and --hours contradict each other"),
        ({"params": 1e6, "shape": (64, 4)}, "--params and --shape contradict each other"),
        ({"params": 1e6, "bytes_served": 1}, "--params and --fit-device contradict"),
        ({"shape": (64, 4), "bytes_served": 1}, "--shape and --fit-device contradict"),
        ({"shape": (40, 4)}, "--shape 40x4: the width must be a multiple of 16"),
        ({"params": 1e6, "tokens": 1, "flops": 1e12}, "already have their FLOPs"),
        ({"shape": (64, 4), "tokens": 1, "hours": 1.0, "device": "cpu"}, "already have their"),
        ({"hours": 1.0}, "--hours: on which device"),
        ({}, "no budget: give at least one of --flops, --hours, --tokens"),
    ],
)
def test_what_contradicts_itself_is_refused(request_of: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Request(**request_of).check()


@pytest.mark.parametrize(
    ("request_of", "name", "asked"),
    [
        ({"flops": 1e18}, "flops-1e18", "--flops"),
        ({"hours": 2.0, "device": "h100", "devices": 8}, "hours-2-8-h100", "--hours"),
        ({"shape": (48, 3), "flops": 1e12}, "flops-1e12-shape-48x3", "--flops --shape"),
        ({"params": 1e6, "tokens": 20_000_000}, "params-1M-tokens-20M", "--tokens --params"),
        ({"bytes_served": 500_000_000}, "fit-500M-q4", "--fit-device"),
    ],
)
def test_a_request_is_named_by_what_is_asked(
    request_of: dict[str, Any], name: str, asked: str
) -> None:
    request = Request(**request_of)
    request.check()
    assert (name_of(request), asked_by(request)) == (name, asked)
