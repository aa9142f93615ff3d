"""Laws that are known, and labs and tables made from them, for the tests of plans."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.laws.loss import LossLaw
from windtunnel.model.shape import count
from windtunnel.plan.shapes import Band, Family
from windtunnel.plan.sizes import Outlook

# Besiroglu et al. 2024 (arXiv 2404.10102)
CHINCHILLA = LossLaw(E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)
# MiniCPM's average over corpora (arXiv 2404.06395, figure 10), from units of 1e9 to parameters
# and tokens
PAPER = LossLaw(E=0.31, A=7.15e-2 * 1e9**0.29, alpha=0.29, B=3.00e-1 * 1e9**0.23, beta=0.23)
# of the tiny table: losses from 5.9 to 4.0
TRUTH = LossLaw(E=0, A=1000, alpha=0.3, B=5000, beta=0.4, c=0.35)
LENGTHS = (50_000, 126_000, 317_000, 800_000)
SIZES = ((16, 1), (32, 2), (48, 2), (64, 3))
VOCAB = 320


def outlook_of(law: LossLaw, vocab: int = 32_768, context: int = 4096, **more: Any) -> Outlook:
    """What to expect by one law, of models with every setting as it is by default."""
    family = Family(vocab=vocab, context=context, band=Band(), fixed={})
    return Outlook(
        law=lambda params, tokens: law.at(params["params"], tokens), family=family, **more
    )


def table_of(path: Path, law: LossLaw = TRUTH, noise: float = 0.003, **columns: Any) -> Path:
    """A scaling study's table: losses of a known law with noise."""
    rng, family = np.random.default_rng(0), Family(vocab=VOCAB, context=256, band=Band(), fixed={})
    rows = []
    for width, depth in SIZES:
        counts = count(family.model(width, depth))
        for tokens in LENGTHS:
            loss = float(law.at(counts.params, tokens)) * math.exp(noise * rng.standard_normal())
            row = {
                "run": f"{width}x{depth}-{tokens}",
                **vars(counts),
                "tokens": tokens,
                "loss": loss,
                "source": "all",
                "kind": "branch",
                "seed": 0,
                "stem": f"{width}x{depth}",
                "width": width,
                "depth": depth,
                "lr": 0.01,
            }
            rows.append(row | columns)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def with_study(lab: Path, study: str = "scaling") -> Path:
    """The lab, with a scaling study of that name and nothing else."""
    folder = lab / "studies" / study
    folder.mkdir(parents=True)
    table_of(folder / "table.csv")
    known = {
        "corpus": "tiny",
        "decay": 0.1,
        "shape": "exponential",
        "floor": 0.1,
        "lengths": list(LENGTHS),
        "seed_sd": 0.01,
        "batch": {"c": 2.0, "p": 0.5, "origin": "measured at laptop scale"},
        "cost": {"flops": 6e12, "core_minutes": 1.0},
        "audit": None,
    }
    write_result(lab, study, known)
    return lab


def write_result(
    lab: Path,
    study: str,
    numbers: dict[str, Any],
    verdict: str | None = "pass",
    runs: tuple[str, ...] = (),
) -> None:
    """A study's result, without its table."""
    folder = lab / "studies" / study
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "study": study,
        "verdict": verdict,
        "summary": f"{study} said so",
        "numbers": numbers,
        "runs": list(runs),
    }
    (folder / "result.json").write_text(json.dumps(result))
