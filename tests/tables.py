"""Tables for tests: a study's as text, and measured losses that few tables have."""

import csv
from pathlib import Path

import numpy as np

from windtunnel.laws.loss import Array


def read_table(folder: Path) -> list[dict[str, str]]:
    """The rows of `table.csv`, every cell as it stands there."""
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def of_a_maximum() -> tuple[Array, Array, Array]:
    """Parameters, tokens and losses of 30 runs: the larger of two steep powers, with noise of 0.2%.
    A coupled law with a floor is fitted with c = 0.02, and then no float holds its B.
    """
    sizes, lengths = np.geomspace(1e8, 1e9, 5), np.geomspace(2e9, 3e10, 6)
    params, tokens = np.repeat(sizes, len(lengths)), np.tile(lengths, len(sizes))
    losses = 2 * np.maximum((1e9 / params) ** 0.6, (2e10 / tokens) ** 0.7)
    noise = 0.002 * np.random.default_rng(0).standard_normal(len(losses))
    return params, tokens, losses * np.exp(noise)
