"""`windtunnel batch`: which batch needs the fewest tokens, and how does it grow?"""

from typing import Annotated, Any, cast

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Corpora, Json, Lab, numbers_of, size_of, words_of
from windtunnel.cli.study import carry_out
from windtunnel.errors import InputError
from windtunnel.quantities import about, parse_length, parse_tokens


@app.command()
def batch(
    corpus: Corpora = "core",
    sizes: Annotated[
        str,
        typer.Option(help="WIDTHxDEPTH each; three or more tell how the batch goes with the size."),
    ] = ("32x2,32x4,64x2"),
    batches: Annotated[
        str, typer.Option(help="Tokens a step; at least five, each in the largest a whole number.")
    ] = ("512,1024,2048,4096,8192"),
    arms: Annotated[
        str,
        typer.Option(
            help="Of the rate: fixed, and sqrt (by the root of the batch); the first one's laws count."
        ),
    ] = "fixed,sqrt",
    tokens: Annotated[str, typer.Option(help="Lengths at which the decayed loss is measured.")] = (
        "163840,327680,655360,983040"
    ),
    trunk: Annotated[
        str, typer.Option(help="Batch of the run from whose checkpoints the batch branches leave.")
    ] = ("2048"),
    window: Annotated[
        str, typer.Option(help="How long a batch branch is, as a share of the length.")
    ] = "10%",
    lr: Annotated[
        float,
        typer.Option(help="Of every batch, and of the trunk's batch where the rate is scaled."),
    ] = 0.01,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Find the batch that needs the fewest tokens for each loss, and the law by which it grows."""
    from windtunnel.tunnel.batch.batch import Arm, Design
    from windtunnel.tunnel.batch.batch import batch as run_batch

    share = parse_length(window)
    if not share.share:
        raise InputError(f"--window {window}: expected a share of the length, such as 10%")
    design = Design(
        sizes=[size_of("--sizes", text) for text in sizes.split(",")],
        arms=cast(list[Arm], words_of("--arms", arms, Arm)),
        batches=numbers_of("--batches", batches),
        lengths=[parse_tokens(text) for text in tokens.split(",")],
        trunk=parse_tokens(trunk),
        window=share.share,
        lr=lr,
        seed=seed,
    )
    carry_out(
        lab, corpus, as_json, lambda opened, watch: run_batch(lab, opened, design, watch), _print
    )


def _print(result: dict[str, Any]) -> None:
    from windtunnel.tunnel.batch.batch import formula

    numbers = result["numbers"]
    print(f"{'lr':6} {'size':>7} {'loss':>7} {'tokens':>7} {'best batch':>10}  90% interval")
    for arm, found in numbers["arms"].items():
        for size in found["sizes"]:
            for level in size["levels"]:
                print(
                    f"{arm:6} {size['width']:4}x{size['depth']:<2} {level['loss']:7.3f} "
                    f"{about(level['tokens']):>7} {_best(level, numbers['batches'])}"
                )
    for arm, found in numbers["arms"].items():
        print(f"\nlr {arm}: regret in nats where held out")
        for name, law in found["laws"].items():
            regret = ", ".join(
                f"{by} {_nats(found['regret'][by][name])}" for by in ("size", "longest")
            )
            print(
                f"  {formula(name, law):30} {regret}{'  <- chosen' if name == found['chosen'] else ''}"
            )
        trunk = numbers["trunk"][arm]
        if trunk["law"]:
            octaves = (
                ""
                if trunk["octaves"] is None
                else f"{trunk['octaves']:+.2f} octaves from the full way, "
            )
            print(
                f"  {formula('loss', trunk['law']):30} from batch branches: {octaves}regret {_nats(trunk['regret'])}"
            )


def _best(level: dict[str, Any], batches: list[int]) -> str:
    if level["batch"] is None:
        outside = f"below {min(batches)}" if level["where"] == "below" else f"above {max(batches)}"
        return f"{outside:>10}  dropped: not sampled there"
    low, high = level["interval"]
    return f"{level['batch']:10.0f}  {low:.0f} to {high:.0f}"


def _nats(regret: float | None) -> str:
    return "none" if regret is None else f"{regret:.4f}"
