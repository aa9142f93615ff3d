"""A study's table as text, for tests that look at the file itself."""

import csv
from pathlib import Path


def read_table(folder: Path) -> list[dict[str, str]]:
    """The rows of `table.csv`, every cell as it stands there."""
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))
