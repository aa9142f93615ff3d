"""Published measurements as points for the laws. Read where they lie, never copied here; `--data
DIR` says where.

Where each comes from, its licence and which columns mean what: the README beside the files.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.laws.points import LossPoints

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def chinchilla(data: Path = DATA) -> LossPoints:
    """245 runs read off a figure (arXiv 2404.10102); the five highest losses are left out, as
    there.
    """
    rows = _rows(data / "epoch_chinchilla" / "svg_extracted_data.csv")
    rows = sorted(rows, key=lambda row: float(row["loss"]))[:240]
    params, flops = _column(rows, "Model Size"), _column(rows, "Training FLOP")
    return LossPoints.of(params, flops / (6 * params), _column(rows, "loss"), flops=flops)


def gemstones(which: str, data: Path = DATA) -> LossPoints:
    """`hot`: at the stable rate; `cool_end`: after the cooldown (arXiv 2502.06857). A stem is a
    shape.
    """
    text = (data / "gemstones" / f"wandb_df_for_fitting_{which}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return LossPoints.of(
        _column(rows, "params_active_precise"),
        _column(rows, "tokens"),
        _column(rows, "final_loss"),
        stem=[row["run_name"] for row in rows],
    )


def wsd_branches(data: Path = DATA) -> LossPoints:
    """The 16 decay branches of eight stems (runs of arXiv 2405.18392, slimpajama, decay of 20%)."""
    return _wsd_cosine(data, lambda row: row["file"].startswith("ann0.2_"))


def cosine_runs(data: Path = DATA) -> LossPoints:
    """The 24 cosine runs from scratch of the same sizes and lengths."""
    return _wsd_cosine(data, lambda row: row["file"].startswith("sl") and row["scheduler"] == "cos")


def datablations(data: Path = DATA) -> LossPoints:
    """The C4 runs of arXiv 2305.16264 that read nothing twice and stay below a loss of 5."""
    rows = [
        row for row in _rows(data / "datablations" / "c4_runs.csv") if float(row["epochs"]) <= 1
    ]
    return LossPoints.of(_column(rows, "N"), _column(rows, "D"), _column(rows, "loss"))


def olmo(text: str, data: Path = DATA) -> LossPoints:
    """OLMo's ladder of 190M to 3B, 0.5 to 10 times Chinchilla, and its 7B and 13B (arXiv
    2412.04403); `text`: c4 or pile.
    """
    rows = _rows(data / "olmo_ladder" / f"olmo_{text}.csv")
    return LossPoints.of(_column(rows, "params"), _column(rows, "tokens"), _column(rows, "loss"))


def openeuro(data: Path = DATA) -> LossPoints:
    """51 cells of OpenEuroLLM's dense English models, each the best of its rates and batches."""
    rows = _rows(data / "openeuro" / "table.csv")
    return LossPoints.of(_column(rows, "params"), _column(rows, "tokens"), _column(rows, "loss"))


def steplaw(data: Path = DATA) -> LossPoints:
    """The 17 cells of StepLaw (arXiv 2503.04715), each the best of its rates and batches."""
    best: dict[tuple[float, float], float] = {}
    for row in _rows(data / "steplaw" / "dense_lr_bs_loss.csv"):
        cell, loss = (float(row["N"]), float(row["D"])), float(row["smooth loss"] or "nan")
        if np.isfinite(loss):
            best[cell] = min(loss, best.get(cell, loss))
    cells = sorted(best)
    return LossPoints.of(
        [n for n, _ in cells], [d for _, d in cells], [best[cell] for cell in cells]
    )


def openwebtext(schedule: str, data: Path = DATA) -> LossPoints:
    """Nine runs of arXiv 2405.18392 on openwebtext2; `schedule`: wsd (branches of 20%) or cos."""
    begins = "ann0.2_" if schedule == "wsd" else ""
    return _wsd_cosine(
        data,
        lambda row: row["scheduler"] == schedule and row["file"].startswith(begins),
        text="openwebtext2",
    )


def laptop(data: Path = DATA) -> LossPoints:
    """Four sizes of 24k to 530k parameters, five lengths, branches of one stem each."""
    rows = _rows(data / "laptop_scale" / "table.csv")
    params = {key: _column(rows, key) for key in ("params", "params_total")}
    return LossPoints.of(
        params, _column(rows, "tokens"), _column(rows, "loss"), stem=[row["params"] for row in rows]
    )


SETS: dict[str, Callable[..., LossPoints]] = {
    "chinchilla": chinchilla,
    "gemstones hot": lambda data=DATA: gemstones("hot", data),
    "gemstones cool_end": lambda data=DATA: gemstones("cool_end", data),
    "wsd_cosine_curves": wsd_branches,
    "datablations": datablations,
    "laptop_scale": laptop,
}


# All tables from which a law can be fitted and tried on what is larger or longer.
TABLES: dict[str, Callable[..., LossPoints]] = {
    **SETS,
    "cosine_curves": cosine_runs,
    "olmo c4": lambda data=DATA: olmo("c4", data),
    "olmo pile": lambda data=DATA: olmo("pile", data),
    "openeuro": openeuro,
    "steplaw": steplaw,
    "openwebtext wsd": lambda data=DATA: openwebtext("wsd", data),
    "openwebtext cosine": lambda data=DATA: openwebtext("cos", data),
}


def _wsd_cosine(
    data: Path, kept: Callable[[dict[str, str]], bool], text: str = "slimpajama"
) -> LossPoints:
    rows = [
        row
        for row in _rows(data / "wsd_cosine_curves" / "runs.csv")
        if row["dataset"] == text and kept(row)
    ]
    params = {"params": _column(rows, "params_nonemb"), "params_total": _column(rows, "params")}
    return LossPoints.of(
        params,
        _column(rows, "tokens"),
        _column(rows, "final_val_loss"),
        stem=[row["params"] for row in rows],
    )


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def _column(rows: list[Any], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])
