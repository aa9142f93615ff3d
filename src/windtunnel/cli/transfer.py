"""`windtunnel transfer`: does the best learning rate stay while the model grows?"""

from typing import TYPE_CHECKING

from windtunnel.cli.options import DEFAULT_LAB, Corpora, Json, Lab
from windtunnel.cli.study import carry_out, study_command
from windtunnel.tunnel.transfer.design import Design

if TYPE_CHECKING:
    from windtunnel.results.study import StudyResult
    from windtunnel.results.transfer import TransferNumbers


@study_command(Design)
def transfer(
    design: Design, corpus: Corpora = "core", lab: Lab = DEFAULT_LAB, as_json: Json = False
) -> None:
    """See whether the best learning rate holds as models grow.

    The best rate is measured at several widths and depths, for one or more parametrizations, and
    with it how far it drifts as the model grows.
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
    )


def _print(result: "StudyResult[TransferNumbers]") -> None:
    print(
        f"{'':10} {'width':>5} {'depth':>5} {'best lr':>8}  {'90% interval':18} {'loss':>7} "
        f"{'regret':>7} {'noise':>6}"
    )
    for name, found in result.numbers.parametrizations.items():
        for size in found.sizes:
            start = f"{name:10} {size.width:5} {size.depth:5}"
            if size.lr is None or size.interval is None:
                print(f"{start} {'none':>8}  no minimum in reach")
                continue
            low, high = size.interval
            regret = "none" if size.regret is None else f"{size.regret:.4f}"
            print(
                f"{start} {size.lr:8.4f}  {f'{low:.4f} to {high:.4f}':18} {size.best_loss:7.4f} "
                f"{regret:>7} {size.noise:6.4f}"
            )
