"""The tour: its designs can be laid out at any size that it may choose, and the chain runs to its
end.
"""

import json
from typing import Any

import pytest

from windtunnel.tour import _FEWEST, _STEP, _designs
from windtunnel.tunnel.scaling import scaling


@pytest.mark.parametrize("unit", [_STEP * 4, _FEWEST, 300_000 - 300_000 % _STEP, 10 * _FEWEST])
def test_its_designs_fit_every_length(unit: int) -> None:
    designs = _designs(unit)
    design = designs["scaling"]
    chain = scaling.lay_out(design, scaling.LAPTOP_BATCH)
    assert len(chain.points) == design.points and chain.points[-1].tokens <= 4.2 * unit
    assert designs["batch"].points[-1][1] <= 2 * unit


@pytest.mark.slow
def test_the_whole_chain_and_its_page(lab: Any) -> None:
    taken = lab.run("tour", "--corpus", "tiny", "--minutes", "1", CXX="no-compiler")
    assert taken.returncode == 0, taken.stderr
    result = json.loads((lab.path / "studies" / "tour" / "result.json").read_text())
    steps = result["numbers"]["steps"]
    assert [step["study"] for step in steps] == [
        "check",
        "search",
        "transfer",
        "batch",
        "scaling",
        "plan",
    ]
    assert steps[-1]["verdict"] in ("pass", "fail")
    said = json.loads((lab.path / "plans" / "tour" / "plan.json").read_text())
    assert said["audit"]["inside90"] == (steps[-1]["verdict"] == "pass")
    assert said["audit"]["run"] == result["numbers"]["written_by"]
    page = (lab.path / "report.html").read_text()
    for name in ("check", "search", "transfer", "batch", "scaling"):
        assert f'id="{name}"' in page
    again = lab.run("tour", "--corpus", "tiny", "--minutes", "1", CXX="no-compiler")
    assert again.returncode == 0 and "runs to train" not in again.stderr
