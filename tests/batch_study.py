"""A batch study in a lab, for the studies that take the law of the batch from it."""

from typing import Any

from windtunnel.results.batch import BATCH, BatchNumbers, FittedLaw
from windtunnel.results.study import write_study

LAW = {"c": 8.0, "p": 0.5}  # a batch of 512 up to 8192 tokens, then of 1024


def with_batch_study(lab: Any, corpus: str = "tiny") -> None:
    """Give the lab a batch study of a corpus that found LAW."""
    intervals = {"c": (4.0, 16.0), "p": (0.4, 0.6)}
    numbers = BatchNumbers(
        sizes=(),
        batches=(),
        lengths=(),
        lr=0.01,
        laws={"tokens": FittedLaw(constants=LAW, intervals=intervals)},
        chosen="tokens",
        arms={},
        corpus=corpus,
    )
    write_study(lab.path, BATCH, rows=[], verdict=None, summary="", numbers=numbers, runs=[])
