"""`windtunnel dynamics`: what the decay does, step by step."""

from pathlib import Path
from typing import TYPE_CHECKING

from windtunnel.cli.display import paragraph
from windtunnel.cli.options import DEFAULT_LAB, Corpora, Json, Lab
from windtunnel.cli.study import carry_out, study_command
from windtunnel.tunnel.dynamics.design import Design

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus
    from windtunnel.results.dynamics import DynamicsNumbers
    from windtunnel.results.study import StudyResult
    from windtunnel.train.loop import Watch


@study_command(Design)
def dynamics(
    design: Design, corpus: Corpora = "core", lab: Lab = DEFAULT_LAB, as_json: Json = False
) -> None:
    """Show what the decay does, step by step.

    How far the weights move, what the gradients do, and how curved the path is, against what the
    paper says of each.
    """
    from windtunnel.results.dynamics import DYNAMICS

    def study(opened: "Corpus", watch: "Watch") -> Path:
        """On the corpus, once it is open."""
        from windtunnel.tunnel.dynamics.dynamics import dynamics, recipe_of

        return dynamics(lab, opened, recipe_of(opened, design), watch)

    carry_out(lab, corpus, as_json, DYNAMICS, study, _print)


def _print(result: "StudyResult[DynamicsNumbers]") -> None:
    print(f"{'':15} {'stable':>9} {'decayed':>9}  shown")
    for claim in result.numbers.claims:
        value, low, high = claim.effect
        shown = "yes" if claim.shown else "no"
        print(f"{claim.name:15} {claim.stable[0]:9.3g} {claim.decay[0]:9.3g}  {shown}")
        effect = f"{claim.effect_is} {value:.3g}, 95% interval {low:.3g} to {high:.3g}"
        paragraph(f"{effect}; the paper says that {claim.says}", "    ")
