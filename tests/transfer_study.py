"""A lab's transfer study whose law of the rate is known."""

from pathlib import Path

from windtunnel.laws.rate import RateLaw
from windtunnel.results.batch import FittedLaw
from windtunnel.results.study import write_study
from windtunnel.results.transfer import TRANSFER, Drifts, ParametrizationRates, TransferNumbers
from windtunnel.scaling_recipe import Settings, rate_found


def with_transfer_law(
    lab: Path,
    law: RateLaw,
    corpus: str = "tiny",
    parametrization: str = "minicpm",
    settings: Settings | None = None,
    batches: FittedLaw | None = None,
) -> None:
    """The lab, with a transfer study that told this law, with settings of a search, and a law of
    the batch.
    """
    rates = ParametrizationRates(
        sizes=(),
        drift=Drifts(width=None, depth=None),
        law=rate_found(law),
        batch_law=batches,
        passes=False,
    )
    numbers = TransferNumbers(
        tokens=1,
        batch=1,
        seeds=(1,),
        corpus=corpus,
        settings=settings or {},
        parametrizations={parametrization: rates},
    )
    write_study(lab, TRANSFER, rows=[], verdict=None, summary="", numbers=numbers, runs=["t1"])
