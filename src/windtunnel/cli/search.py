"""`windtunnel search`: the best learning rate, scale_depth, scale_emb and init_std, jointly."""

from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli.display import paragraph
from windtunnel.cli.options import DEFAULT_LAB, Corpora, Json, Lab
from windtunnel.cli.study import HERE, On, carry_out, study_command
from windtunnel.tunnel.search.design import Design

if TYPE_CHECKING:
    from windtunnel.results.search import SearchNumbers
    from windtunnel.results.study import StudyResult

Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Where the trials are kept: any Optuna storage URL, for its dashboard or a shared "
        "database, such as postgresql://USER@HOST/NAME, where several machines carry out one "
        "search. By default they are in an SQLite file beside the study.",
        metavar="URL",
    ),
]


@study_command(Design)
def search(
    design: Design,
    storage: Storage = None,
    corpus: Corpora = "core",
    on: On = HERE,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Search for the best learning rate and multipliers.

    A Bayesian search over the learning rate, scale_depth, scale_emb and init_std of a small model,
    all at once. The chosen point is compared with the paper's on new seeds. Where the best point
    lies at an end of what is searched, the search goes on beyond it. Runs of fewer than 400 steps
    give no verdict.
    """
    from windtunnel.results.search import SEARCH
    from windtunnel.tunnel.search.search import search as study

    carry_out(
        lab,
        corpus,
        as_json,
        SEARCH,
        lambda opened, watch: study(lab, opened, design, watch, storage),
        _print,
        on,
    )


def _print(result: "StudyResult[SearchNumbers]") -> None:
    numbers = result.numbers
    chosen, paper = numbers.chosen.point, numbers.defaults.point
    print(f"{'':12} {'chosen':>8} {'paper':>8}  {'best is in (90%)':20} {'explains alone':>14}")
    for name in numbers.settings:
        low, high = numbers.bowls[name].best
        print(
            f"{name:12} {chosen[name]:8.4g} {paper[name]:8.4g}  {f'{low:.3g} to {high:.3g}':20} "
            f"{numbers.importances[name]:14.0%}"
        )
    print(f"\n{'candidate':>9} {'its trial':>9} {'posterior':>9}  with fresh seeds")
    for one in numbers.candidates:
        fresh = "  ".join(map(_loss, one.losses))
        print(f"{one.trial:9} {_loss(one.trial_loss):>9} {one.posterior_mean:9.4f}  {fresh}")
    noise = numbers.noise
    print()
    paragraph(
        f"{numbers.failed} of {numbers.trials} trials diverged. Noise (SD): {noise.seed:.4f} "
        f"nats/token that all runs of a seed share, and {noise.run:.4f} of a run on its own."
    )


def _loss(loss: float | None) -> str:
    return "diverged" if loss is None else f"{loss:.4f}"
