"""A plan starts at once: neither its modules nor the command import what takes seconds to load."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from plan_labs import table_of

SLOW = ("torch", "pandas", "plotly", "optuna", "transformers", "scipy.stats", "tokenizers")
MODULES = sorted((Path(__file__).parents[2] / "src/windtunnel/plan").glob("*.py"))


def slow_ones_after(code: str) -> list[str]:
    """What of the slow packages a new process has imported after this code."""
    loaded = f"[name for name in {SLOW} if name in sys.modules]"
    code = f"import json, sys\n{code}\nprint(json.dumps({loaded}), file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(run.stderr.splitlines()[-1])


@pytest.mark.parametrize("module", [file.stem for file in MODULES if file.stem != "audit"])
def test_no_module_of_plans_imports_what_is_slow(module: str) -> None:
    assert slow_ones_after(f"import windtunnel.plan.{module}") == []


def test_an_audit_reads_runs_without_torch() -> None:
    assert "torch" not in slow_ones_after("import windtunnel.plan.audit")


def test_a_plan_from_a_table_imports_nothing_that_is_slow(tmp_path: Path) -> None:
    table = table_of(tmp_path / "table.csv")
    words = ["windtunnel", "plan", "--from", str(table), "--flops", "1e11", "--json"]
    code = f"""
sys.argv = {[*words, "--lab", str(tmp_path / "lab")]}
from windtunnel.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
"""
    assert slow_ones_after(code) == []
    assert (tmp_path / "lab/plans/flops-1e11/plan.json").exists()


def test_what_is_slow_would_be_seen() -> None:
    assert slow_ones_after("import windtunnel.train.loop") != []
