"""Laws that are known, and labs and tables made from them, for the tests of plans."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.laws.loss import LossLaw
from windtunnel.model.shape import count
from windtunnel.plan.shapes import Band, Family
from windtunnel.plan.sizes import Outlook
from windtunnel.tunnel.check.design import Design

# Besiroglu et al. 2024 (arXiv 2404.10102)
CHINCHILLA = LossLaw.of(E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)
# MiniCPM's average over corpora (arXiv 2404.06395, figure 10), from units of 1e9 to parameters
# and tokens
PAPER = LossLaw.of(E=0.31, A=7.15e-2 * 1e9**0.29, alpha=0.29, B=3.00e-1 * 1e9**0.23, beta=0.23)
# of the tiny table: losses from 5.9 to 4.0
TRUTH = LossLaw.of(E=0, A=1000, alpha=0.3, B=5000, beta=0.4, c=0.35)
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
                "flops": 6 * counts.params * tokens,
                "loss": loss,
                "source": "all",
                "kind": "branch",
                "seed": 0,
                "stem": f"{width}x{depth}",
                "width": width,
                "depth": depth,
                "batch": 256,
                "lr": 0.01,
            }
            rows.append(row | columns)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def with_study(
    lab: Path,
    study: str = "scaling",
    runs: tuple[str, ...] = (),
    batch: tuple[float, float, str] = (2.0, 0.5, "measured at laptop scale"),
) -> Path:
    """The lab, with a scaling study of that name and nothing else; `batch`: c, p and origin of the
    law that its runs kept to.
    """
    c, p, origin = batch
    folder = lab / "studies" / study
    folder.mkdir(parents=True)
    table_of(folder / "table.csv")
    cost = {"flops": 6 * 10**12, "flops_cosine": 10**13, "ratio": 0.6, "core_minutes": 1.0}
    write_result(
        lab,
        study,
        {
            "corpus": "tiny",
            "lengths": list(LENGTHS),
            "decay": 0.1,
            "shape": "exponential",
            "floor": 0.1,
            "batch": {"origin": origin, "c": c, "p": p, "segments": []},
            "cost": {**cost, "tokens": 10**7, "tokens_cosine": 2 * 10**7},
            "sizes": [],
            "span": 16.0,
            "fewest_steps": 400,
            "epochs": 0.5,
            "seed_sd": 0.01,
            "seed_freedom": 3,
        },
        runs=runs,
    )
    return lab


def with_batch_study(
    lab: Path,
    batches: dict[float, float],
    covariance: tuple[tuple[float, float], ...] | None = ((0.25, -0.02), (-0.02, 0.0017)),
    runs: tuple[str, ...] = (),
) -> Path:
    """The lab, with a batch study that found the law of the tokens, through the best batch of each
    length; `covariance`: of log c and p.
    """
    tokens, best = (np.log(list(each)) for each in (batches, batches.values()))
    p, log_c = np.polyfit(tokens, best, 1)
    law = {
        "c": math.exp(log_c),
        "p": p,
        "intervals": {"c": (0.1, 10.0), "p": (0.3, 0.5)},
        "covariance": covariance,
    }
    levels = [
        {
            "batch": batch,
            "loss": 5 - i / 10,
            "tokens": tokens,
            "where": "inside",
            "interval": [0.8 * batch, 1.25 * batch],
        }
        for i, (tokens, batch) in enumerate(batches.items())
    ]
    size = {"width": 48, "depth": 2, "params": 50_000}
    arm = {
        "noise": 0.01,
        "sizes": [size | {"levels": levels}],
        "laws": {"tokens": law},
        "three_term": None,
        "regret": {"size": {}, "longest": {}},
        "chosen": "tokens",
    }
    numbers = {
        "sizes": [size],
        "batches": [256],
        "lengths": [100_000],
        "lr": 0.01,
        "laws": {},
        "chosen": "tokens",
        "arms": {"fixed": arm},
        "corpus": "tiny",
    }
    write_result(lab, "batch", numbers, runs=runs)
    return lab


def with_transfer_study(
    lab: Path, lr: float, interval: tuple[float, float], corpus: str = "tiny", **result: Any
) -> Path:
    """The lab, with a transfer study of a narrow and a wide model: the best rate of the wide."""
    nothing = {"best_loss": None, "noise": None, "regret": None}
    narrow = {"width": 32, "depth": 2, "params": 20_000, "lr": 0.5, "interval": [0.4, 0.6]}
    wide = {"width": 64, "depth": 2, "params": 80_000, "lr": lr, "interval": interval}
    rates = {
        "sizes": [narrow | nothing, wide | nothing],
        "drift": {"width": None, "depth": None},
        "passes": True,
    }
    numbers = {
        "tokens": 800_000,
        "batch": 256,
        "seeds": [1],
        "corpus": corpus,
        "parametrizations": {"minicpm": rates},
    }
    write_result(lab, "transfer", numbers, **result)
    return lab


def with_search_study(
    lab: Path,
    lr: float,
    outcome: str | None,
    optimizer: str = "adamw",
    corpus: str = "tiny",
    also: Mapping[str, float] | None = None,
    **result: Any,
) -> Path:
    """The lab, with a search that chose this rate; `also`: the other settings of that point."""
    numbers = {
        "corpus": corpus,
        "optimizer": optimizer,
        "width": 32,
        "depth": 2,
        "tokens": 800_000,
        "batch": 256,
        "sampler": "surface",
        "trials": 1,
        "seed": 0,
        "failed": 0,
        "settings": {},
        "chosen": {"lr": lr, **(also or {}), "trial": 0, "losses": [4.0]},
        "defaults": {"lr": 0.01, "losses": [4.1]},
        "difference": {"mean": -0.1, "interval": [-0.2, 0.0], "seeds": 1},
        "outcome": outcome,
        "luckiest": {"lr": lr, "trial": 0, "loss": 4.0},
        "candidates": [],
        "noise": {"seed": 0.01, "run": 0.01, "measured": True},
        "bowls": {},
        "importances": {},
        "expected_gain": {"trials": [], "gain": []},
    }
    write_result(lab, "search", numbers, **result)
    return lab


def with_check(
    lab: Path, parametrization: str = "minicpm", optimizer: str = "adamw", **result: Any
) -> Path:
    """The lab, with a coordinate check of these rules and this optimiser."""
    design = Design(parametrization=parametrization, optimizer=optimizer)
    numbers = {
        "design": asdict(design),
        "corpus": None,
        "causes": {"width": [], "depth": []},
        "quantities": [],
    }
    write_result(lab, "check", numbers, **result)
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
