"""What a search measures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from windtunnel.recipe import OPTIMIZERS
from windtunnel.tunnel.design import TOKENS, TOKENS_OR_ZERO, any_words, option, whole, word
from windtunnel.tunnel.search.settings import optional_settings


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is searched, and how long.

    The trials share one seed, so that what they differ by is the settings. The best few of the
    surface run again with `fresh_seeds` further seeds; then the chosen one and the paper's point,
    with as many seeds that had no part in the choice.
    """

    width: int = option(32, "Width of the small model that is searched on.", whole(least=16))
    depth: int = option(3, "Depth of the small model.", whole())
    optimizer: str = option(
        "adamw", "Optimiser that every run is trained with: {words}.", word(lambda: OPTIMIZERS)
    )
    tokens: int = option(
        0,
        "Length of each run in tokens. 0 stands for ten tokens per parameter (embeddings not "
        "counted), and at least 400 steps.",
        TOKENS_OR_ZERO,
    )
    batch: int = option(2048, "Batch, in tokens per step.", TOKENS)
    trials: int = option(
        48,
        "Number of trials in all. Ask for more later, and the search goes on from there.",
        whole(least=2),
    )
    start: int = option(
        16,
        "Trials before the surface chooses: the paper's point first, then a Sobol sequence.",
        whole(least=2),
    )
    batch_trials: int = option(8, "Trials that are chosen together after the start.", whole())
    candidates: int = option(4, "How many of the best trials run again with new seeds.", whole())
    fresh_seeds: int = option(
        3,
        "New seeds for choosing among the best trials, and as many again for the comparison with "
        "the paper's point.",
        whole(least=2),
    )
    also: tuple[str, ...] = option(
        (),
        "Settings to search as well, separated by commas: {words}.",
        any_words(optional_settings),
    )
    seed: int = option(0, "Seed of all trials and of the search itself.", whole(least=0))
    train: Mapping[str, Any] = field(default_factory=dict)  # changes of that section of the recipe

    @property
    def choosing(self) -> list[int]:
        """The seeds with which the best trials run again."""
        return [self.seed + 1 + i for i in range(self.fresh_seeds)]

    @property
    def comparing(self) -> list[int]:
        """The seeds of the comparison, which had no part in the choice."""
        return [seed + self.fresh_seeds for seed in self.choosing]

    def batches(self) -> list[tuple[int, int]]:
        """(first, end) of the trials that are asked for together: the start, then batches of the
        sampler's.
        """
        found = [(0, min(self.start, self.trials))]
        while (asked := found[-1][1]) < self.trials:
            found.append((asked, min(self.trials, asked + self.batch_trials)))
        return found
