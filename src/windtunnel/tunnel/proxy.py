"""The tunnel's small model: what the experiments train where nobody gives a recipe."""

import math
from typing import Any

from windtunnel.data.shards import Corpus
from windtunnel.laws import laptop
from windtunnel.quantities import parse_tokens
from windtunnel.recipe import Recipe, parse

_WARMUP = 0.02  # of the tokens
# tokens through the model at once: larger batches are made of such parts, which need no compiling
# anew
_PART = 2048


def proxy(
    corpus: Corpus, width: int = 64, depth: int = 4, tokens: int | str = "1M", **sections: Any
) -> Recipe:
    """A recipe of this width, depth and length with the paper's defaults; `sections` change
    fields of it, as in `Recipe.change`. The head size is 32, or 16 where that does not divide the
    width. It is evaluated at its end (a stem also at its branch points), and saved there.
    """
    length = parse_tokens(tokens)
    batch = (sections.get("train") or {}).get("batch", 2048)
    values: dict[str, Any] = {
        "name": f"{width}x{depth}",
        "model": {
            "width": width,
            "depth": depth,
            "heads": width // (32 if width % 32 == 0 else 16),
            "vocab": corpus.manifest.vocab,
            "base_width": laptop.BASE_WIDTH,
            "base_depth": laptop.BASE_DEPTH,
        },
        "data": {"corpus": corpus.folder.name, "context": 256},
        "optimizer": {"lr": 0.01},
        # a stem's warm-up must be in tokens; so it is for all, and a stem and a run of one length
        # agree
        "schedule": {
            "tokens": length,
            "warmup": max(batch, round(_WARMUP * length)),
            "decay": "10%",
        },
        "train": {
            "batch": batch,
            "micro_batch": min(batch, _PART),
            "checkpoint_every": "100%",
            "keep": 1,
            "evaluate_every": "100%",
            "evaluate_tokens": 16_384,
        },
    }
    for section, fields in sections.items():
        values[section] = values.get(section, {}) | fields if isinstance(fields, dict) else fields
    return parse(values, "the tunnel's recipe")


def stem_warmup(shortest: int, longest: int) -> int:
    """Tokens of warm-up of a stem with branches of these lengths: it has one for all of them."""
    return round(_WARMUP * math.sqrt(shortest * longest))
