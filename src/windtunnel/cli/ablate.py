"""`windtunnel ablate`: which data is worth putting into the decay."""

import math
from typing import Annotated, Any

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Corpora, Json, Lab, Shape, share_of, word_of
from windtunnel.cli.study import carry_out
from windtunnel.errors import InputError
from windtunnel.quantities import about, parse_tokens
from windtunnel.recipe import DECAY_SHAPES


@app.command()
def ablate(
    corpus: Corpora = "core",
    arms: Annotated[
        str, typer.Option(help="What the arms differ in: mixture, shape or length of the decay.")
    ] = ("mixture"),
    arm: Annotated[
        list[str] | None,
        typer.Option(
            "--arm",
            help="NAME=SOURCE=WEIGHT,...: a mixture; held against the natural one, in place of --arms.",
        ),
    ] = None,
    share: Annotated[
        str, typer.Option(help="Of the decay, that goes to one source more, with --arms mixture.")
    ] = ("50%"),
    width: Annotated[int, typer.Option(min=16)] = 64,
    depth: Annotated[int, typer.Option(min=1)] = 4,
    tokens: Annotated[str, typer.Option(help="Of every arm, its decay included.")] = "2560k",
    decay: Annotated[str, typer.Option(help="The decay's share of them.")] = "20%",
    shape: Shape = "linear",
    batch: Annotated[str, typer.Option(help="Tokens a step.")] = "2048",
    lr: Annotated[float, typer.Option(help="The base rate.")] = 0.01,
    seeds: Annotated[int, typer.Option(help="Stems; two at least for intervals.", min=1)] = 2,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Decay one stem in several ways and compare the losses on each held-out source."""
    mixtures, more, length = (
        [_mixture(text) for text in arm or ()],
        share_of("--share", share),
        share_of("--decay", decay),
    )
    # these bring torch: what is wrong with an option is said before that
    from windtunnel.data.shards import Corpus
    from windtunnel.results.ablate import ABLATE
    from windtunnel.tunnel.ablate import Arm, Design, Vary
    from windtunnel.tunnel.ablate import ablate as run_ablate

    decay_shape = word_of("--shape", shape, DECAY_SHAPES)
    design = Design(
        width, depth, parse_tokens(tokens), length, decay_shape, parse_tokens(batch), lr, seeds
    )
    vary = word_of("--arms", arms, Vary)
    given = [Arm(name, length, decay_shape, mixture) for name, mixture in mixtures]

    def arms_for(opened: Corpus) -> list[Arm]:
        return [design.base, *given] if given else design.arms(opened, vary, more)

    carry_out(
        lab,
        corpus,
        as_json,
        ABLATE,
        lambda opened, watch: run_ablate(lab, opened, design, arms_for(opened), watch),
        lambda result: _print(result.model_dump(mode="json")),
    )


def _mixture(text: str) -> tuple[str, dict[str, float]]:
    name, _, listed = text.partition("=")
    weights: dict[str, float] = {}
    for part in listed.split(","):
        source, _, weight = part.partition("=")
        try:
            weights[source.strip()] = float(weight)
        except ValueError:
            weights[source.strip()] = math.nan
    if not name.strip() or not all(
        source and 0 <= weight < math.inf for source, weight in weights.items()
    ):
        raise InputError(
            f"--arm {text}: expected NAME=SOURCE=WEIGHT,... with weights of zero or more"
        )
    return name.strip(), weights


def _print(result: dict[str, Any]) -> None:
    numbers = result["numbers"]
    sources = numbers["sources"]
    print(
        f"loss over that of {numbers['base']}, nats/token; * where the 90% interval is clear of zero\n"
    )
    print(f"{'arm':14} {'decay':>6} " + " ".join(f"{source[:10]:>10}" for source in sources))
    for arm in numbers["arms"]:
        cells = [f"{arm['loss'][source]:.4f} " if arm["loss"] else "none " for source in sources]
        if arm["difference"]:
            cells = [_cell(arm["difference"][source]) for source in sources]
        print(
            f"{arm['name'][:14]:14} {about(arm['decay']):>6} "
            + " ".join(f"{cell:>10}" for cell in cells)
        )
    if numbers["noise"] and numbers["noise"]["all"] is not None:
        print(
            f"{'noise (SD)':14} {'':6} "
            + " ".join(f"{numbers['noise'][source]:9.4f} " for source in sources)
        )


def _cell(difference: dict[str, Any]) -> str:
    interval = difference["interval"]
    clear = interval and (interval[0] > 0 or interval[1] < 0)
    return f"{difference['mean']:+.4f}{'*' if clear else ' '}"
