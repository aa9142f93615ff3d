"""Which run a recipe is: a hash of what sets it apart from the defaults, so that ids survive the
project's growth.

The defaults are those of the time when `RESULTS_VERSION` was last raised, and they stay as they
were. So a key that is added later moves no id, since nobody has set it; and where a default
changes, runs with the new value get another id than runs with the old one.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from windtunnel.recipe.parametrization import PARAMETRIZATIONS
from windtunnel.recipe.sections import Recipe, Section

# Raised whenever the code changes what a recipe gives (model, order, schedule, optimiser, the text
# that a loss is of): then it is another run. Where only the rules of one parametrization change,
# its `revision` is raised.
RESULTS_VERSION = 5

# By key: the value, as JSON has it, that says nothing. A line is added together with a key, with
# the value that computes what was computed before there was such a key; it is changed only when
# RESULTS_VERSION is raised. What must always be said has no line: shapes, corpus, lengths.
DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "model.experts": 0,
    "model.experts_per_token": 2,
    "model.tied": True,
    "model.rope_base": 10_000.0,
    "model.rope_scaling": "none",
    "model.rope_factor": 1.0,
    "model.rope_original": 0,
    "model.rope_slow": 0.0,
    "model.rope_fast": 0.0,
    "model.rope_attention": 0.0,
    "model.norm_eps": 1e-5,
    "model.parametrization": "minicpm",
    "model.base_width": 256,
    "model.base_depth": 8,
    "model.scale_emb": 12.0,
    "model.scale_depth": 1.4,
    "model.init_std": 0.1,
    "model.embedding_as": "vector",
    "data.context": 256,
    "data.mixture": {},
    "data.stages": [],
    "data.mask_documents": False,
    "optimizer.kind": "adamw",
    "optimizer.lr": 0.01,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.95,
    "optimizer.eps": 1e-8,
    "optimizer.momentum": 0.95,
    "optimizer.weight_decay": 1e-3,
    "optimizer.clip": 1.0,
    "optimizer.balance": 0.01,
    "optimizer.lr_by_role": True,
    "preference": None,
    "preference.loss": "sigmoid",
    "preference.beta": 0.1,
    "preference.label_smoothing": 0.0,
    "preference.per_token": None,
    "schedule.kind": "wsd",
    "schedule.decay_shape": "linear",
    "schedule.floor": 0.0,
    "schedule.half_life": 0,
    "train.growth": [],
    "train.objective": None,
    "train.micro_batch": "0",
    "train.precision": "auto",
    "train.compile": "auto",
}

# Keys that change nothing of what comes out.
WITHOUT_EFFECT = {
    "name",
    "train.device",
    "train.deterministic",
    "train.checkpoint_every",
    "train.keep",
    "train.branch_points",
    "train.evaluate_every",
    "train.evaluate_tokens",
}

# Keys that a stem has no use for yet: it can be extended, and its branches have their own.
_OF_THE_END = {
    "schedule.tokens",
    "schedule.decay",
    "schedule.decay_shape",
    "schedule.floor",
    "schedule.half_life",
}

_UNSAID = object()  # the default of a key that has none


def identity(recipe: Recipe, corpus: str, parent: tuple[str, int] | None = None) -> str:
    """Twelve hex digits that name the run of this recipe on a corpus of this digest, begun at
    (run, tokens) of a parent if there is one.

    Only what changes the result counts. A stem's length does not: asking for more tokens of a
    stem extends it.
    """
    content = json.dumps([RESULTS_VERSION, apart(recipe), corpus, parent], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def apart(recipe: Recipe) -> dict[str, Any]:
    """By key, such as `model.width`, the values that set this run apart, as JSON has them: what
    changes the result and is not as in `DEFAULTS`, or, for a key that has no line there, not as
    it would be if nobody had said it.
    """
    # shares and parts of a step as the tokens that they come to
    lengths = {
        "schedule.tokens": recipe.total_tokens,
        "schedule.warmup": recipe.warmup_tokens,
        "schedule.decay": recipe.decay_tokens,
        "schedule.half_life": recipe.schedule.half_life.of(recipe.schedule.tokens),
    }
    left_out = WITHOUT_EFFECT | (_OF_THE_END if recipe.is_stem else set())
    result = {}
    for key, value, silent in _values(recipe):
        value = lengths.get(key, value)
        if key not in left_out and value != silent:
            result[key] = value
    revision = PARAMETRIZATIONS[recipe.model.parametrization].revision
    if revision > 1:
        result["model.parametrization.revision"] = revision
    return result


def _values(section: Section, above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every key, its value, and the value that says nothing: its line in `DEFAULTS`, or, for a key
    that has none there, its present default. All as JSON has them.
    """
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        inner = getattr(section, name)
        if isinstance(inner, Section):
            yield from _values(inner, f"{above}{name}.")
            continue
        key = f"{above}{name}"
        if key in DEFAULTS:
            silent = DEFAULTS[key]
        elif field.is_required():
            silent = _UNSAID
        else:
            silent = type(section).default(name)
        yield key, values[name], silent
