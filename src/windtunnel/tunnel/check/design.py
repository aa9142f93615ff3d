"""What the coordinate check measures."""

from dataclasses import dataclass

from windtunnel.choices import Table
from windtunnel.recipe import OPTIMIZERS, PARAMETRIZATIONS
from windtunnel.tunnel.design import DIFFERENT_WHOLES, NUMBER, SWITCH, option, whole, word


@dataclass(frozen=True)
class EmbeddingAs:
    """What the embedding counts as: the paper leaves it open."""

    name: str
    help: str


EMBEDDING_AS = Table(
    "kind of embedding",
    [
        EmbeddingAs("vector", "its init and rate are the same at every width"),
        EmbeddingAs("matrix", "its init and rate shrink with the width"),
    ],
)


@dataclass(frozen=True, kw_only=True)
class Design:
    """Widths at `depth`, depths at `width`; seeds 0, 1, ...; read after each of `steps`."""

    parametrization: str = option(
        "minicpm",
        "Parametrization whose rules are checked: {words}.",
        word(lambda: PARAMETRIZATIONS),
    )
    optimizer: str = option(
        "adamw",
        "Optimiser whose steps are checked: {words}.",
        word(lambda: OPTIMIZERS),
    )
    widths: tuple[int, ...] = option(
        (64, 128, 256, 512), "Widths to compare, multiples of 16.", DIFFERENT_WHOLES
    )
    depths: tuple[int, ...] = option(
        (4, 8, 16), "Depths to compare, at a width of 64.", DIFFERENT_WHOLES
    )
    seeds: int = option(
        4,
        "Number of models of each size, from which the intervals come. At least 3.",
        whole(),
    )
    lr: float = option(0.003, "Base learning rate, constant over the steps.", NUMBER)
    eps: float = option(
        1e-8, "Adam's epsilon, which is added to the denominator of its update.", NUMBER
    )
    embedding_as: str = option(
        "vector",
        "What the embedding counts as: {words}. As a matrix, its init and rate shrink with the "
        "width.",
        word(lambda: EMBEDDING_AS),
    )
    tied: bool = option(
        True,
        "Whether the head shares the weights of the embedding or has its own.",
        SWITCH,
        flag="--tied/--untied",
    )
    width: int = 64
    depth: int = 2
    steps: tuple[int, ...] = (0, 1, 2, 5, 10, 30)
    head_size: int = 16
    context: int = 32
