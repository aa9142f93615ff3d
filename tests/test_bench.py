"""The scripts in `bench/` are not run here, but they must begin: a module that has moved, or an
option that argparse refuses, is seen.
"""

import subprocess
import sys
from pathlib import Path

SCRIPTS = sorted((Path(__file__).resolve().parents[1] / "bench").glob("*.py"))
BEGIN = """
import contextlib, importlib, io, sys
for name in sys.argv[1:]:
    script = importlib.import_module(name)
    if not hasattr(script, "main"):
        continue
    sys.argv, said = [name, "--help"], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        script.main()
        raise RuntimeError(f"{name} --help went on")
    assert "usage" in said.getvalue(), name
"""


def test_every_script_begins_and_explains_itself() -> None:
    names = [script.stem for script in SCRIPTS]
    done = subprocess.run(
        [sys.executable, "-c", BEGIN, *names],
        capture_output=True,
        text=True,
        cwd=SCRIPTS[0].parent,
    )
    assert done.returncode == 0, done.stderr


def test_every_script_says_what_it_claims_and_how_it_is_run() -> None:
    for script in SCRIPTS:
        said = script.read_text()
        assert said.startswith('"""'), script
        if "def main(" in said:
            doc = said.split('"""')[1]
            assert f".venv/bin/python bench/{script.name}" in doc, script
            assert "JSON" in doc, script
