"""`windtunnel transfer`: the best learning rate, and where it goes with size, length and batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from windtunnel.cli.findings import best_batch
from windtunnel.cli.options import DEFAULT_LAB, Corpora, Json, Lab
from windtunnel.cli.study import HERE, On, carry_out, study_command
from windtunnel.quantities import about
from windtunnel.tunnel.transfer.design import Design

if TYPE_CHECKING:
    from windtunnel.results.study import StudyResult
    from windtunnel.results.transfer import ParametrizationRates, TransferNumbers


@study_command(Design)
def transfer(
    design: Design,
    corpus: Corpora = "core",
    on: On = HERE,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Find the best learning rate, and where it goes as models grow.

    The best rate is measured at several widths, depths, lengths and batches, for one or more
    parametrizations. The study says how far it drifts as the model grows, and gives a law of the
    rate by size, length and batch, which a scaling study trains by.
    """
    from windtunnel.results.transfer import TRANSFER
    from windtunnel.tunnel.transfer.transfer import transfer as study

    carry_out(
        lab,
        corpus,
        as_json,
        TRANSFER,
        lambda opened, watch: study(lab, opened, design, watch),
        _print,
        on,
    )


def _print(result: "StudyResult[TransferNumbers]") -> None:
    for name, found in result.numbers.parametrizations.items():
        print(
            f"{name}\n{'size':>6} {'batch':>5} {'tokens':>6} {'best lr':>7}  {'90% interval':16} "
            f"{'loss':>6} {'regret':>6} {'by law':>6} {'noise':>6}"
        )
        for size in found.sizes:
            batch = size.batch or result.numbers.batch
            tokens = about(size.tokens or result.numbers.tokens)
            start = f"{f'{size.width}x{size.depth}':>6} {batch:5} {tokens:>6}"
            if size.lr is None or size.interval is None:
                print(f"{start} {'none':>7}  no minimum in reach")
                continue
            low, high = size.interval
            print(
                f"{start} {size.lr:7.4f}  {f'{low:.4f} to {high:.4f}':16} {size.best_loss:6.3f} "
                f"{_nats(size.regret)} {_nats(size.regret_of_law)} {size.noise:6.4f}"
            )
        _print_batches(found, result.numbers.batches)
    print(
        "regret: what the rate of the first line costs here, nats/token\n"
        "by law: what the rate by the law costs"
    )


def _print_batches(found: "ParametrizationRates", batches: Sequence[int]) -> None:
    """The best batch at each length, where enough batches were measured to tell."""
    if not found.best_batches:
        return
    print(f"\n{'tokens':>6} {'loss':>6} {'best batch':>10}  90% interval, each at its best rate")
    for level in found.best_batches:
        tokens, best = about(level.tokens), best_batch(level, batches)
        print(f"{tokens:>6} {level.loss:6.3f} {best}")
    if found.batch_law:
        from windtunnel.laws.batch import ByTokens

        low, high = found.batch_law.intervals["p"]
        law = ByTokens.formula.format(**found.batch_law.constants)
        print(f"{law}, the power {low:.2f} to {high:.2f}\n")


def _nats(value: float | None) -> str:
    return f"{'none':>6}" if value is None else f"{value:6.4f}"
