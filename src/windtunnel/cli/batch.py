"""`windtunnel batch`: which batch needs the fewest tokens, and how does it grow?"""

from typing import TYPE_CHECKING

from windtunnel.cli.findings import best_batch
from windtunnel.cli.options import DEFAULT_LAB, Corpora, Json, Lab
from windtunnel.cli.study import HERE, On, carry_out, study_command
from windtunnel.quantities import about
from windtunnel.tunnel.batch.design import Design

if TYPE_CHECKING:
    from windtunnel.results.batch import ArmFound, BatchNumbers
    from windtunnel.results.study import StudyResult


@study_command(Design)
def batch(
    design: Design,
    corpus: Corpora = "core",
    on: On = HERE,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Find the best batch, and the law by which it grows.

    The best batch is the one that reaches a loss with the fewest tokens.
    """
    from windtunnel.results.batch import BATCH
    from windtunnel.tunnel.batch.batch import batch as study

    carry_out(
        lab,
        corpus,
        as_json,
        BATCH,
        lambda opened, watch: study(lab, opened, design, watch),
        _print,
        on,
    )


def _print(result: "StudyResult[BatchNumbers]") -> None:
    numbers = result.numbers
    print(f"{'lr':6} {'size':>7} {'loss':>7} {'tokens':>7} {'best batch':>10}  90% interval")
    for arm, found in numbers.arms.items():
        for size in found.sizes:
            for level in size.levels:
                print(
                    f"{arm:6} {size.width:4}x{size.depth:<2} {level.loss:7.3f} "
                    f"{about(level.tokens):>7} {best_batch(level, numbers.batches)}"
                )
    for arm, found in numbers.arms.items():
        _print_laws(arm, found)


def _print_laws(arm: str, found: "ArmFound") -> None:
    from windtunnel.tunnel.batch.batch import formula

    print(f"\nlr {arm}: nats/token that each law costs where it was not fitted")
    for name, law in found.laws.items():
        size, longest = found.regret.size[name], found.regret.longest[name]
        mark = "  <- chosen" if name == found.chosen else ""
        print(
            f"  {formula(name, law):30} another size {_nats(size)}, the longest runs "
            f"{_nats(longest)}{mark}"
        )


def _nats(regret: float | None) -> str:
    return "none" if regret is None else f"{regret:.4f}"
