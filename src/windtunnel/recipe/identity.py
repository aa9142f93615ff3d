"""Which run a recipe is."""

import hashlib
import json

from windtunnel.recipe.sections import Recipe

# Raised whenever the code changes what a recipe gives (model, order, schedule, optimiser): then
# it is another run.
RESULTS_VERSION = 3


def identity(recipe: Recipe, corpus: str, parent: tuple[str, int] | None = None) -> str:
    """Twelve hex digits that name the run of this recipe on a corpus of this digest, begun at
    (run, tokens) of a parent if there is one.

    Only what changes the result counts. A stem's length does not: asking for more tokens of a
    stem extends it.
    """
    values = recipe.model_dump(mode="json")
    values["schedule"] |= {
        "warmup": recipe.warmup_tokens,
        "decay": recipe.decay_tokens,
        "tokens": recipe.total_tokens,
    }
    values["schedule"]["half_life"] = recipe.schedule.half_life.of(recipe.schedule.tokens)
    if recipe.is_stem:
        values["schedule"] = {"warmup": recipe.warmup_tokens}
    values["train"] = {
        key: values["train"][key] for key in ("batch", "micro_batch", "precision", "compile")
    }
    del values["name"]
    if not recipe.model.experts:
        del (
            values["model"]["experts"],
            values["model"]["experts_per_token"],
            values["optimizer"]["balance"],
        )
    content = json.dumps([RESULTS_VERSION, values, corpus, parent], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
