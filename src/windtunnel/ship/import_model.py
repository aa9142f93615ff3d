"""`windtunnel import`: a model that was trained elsewhere becomes a run of the lab, a stem at 0
tokens that can be branched and exported.

Its weights are the checkpoint at 0, without optimiser moments, and it has its own tokenizer; it has
no corpus, rate or loss. Whoever trains on it says on which text and at which rate. Its identity is
the content of everything that is used of it, so that importing a model twice gives one run, and
importing it with a corrected chat template another.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.recipe import Model, Recipe, parse
from windtunnel.results.run import Origin
from windtunnel.ship.huggingface.folder import NO_PICKLE, PICKLES
from windtunnel.ship.layouts import layout_of, one_expert_a_token
from windtunnel.train import checkpoint
from windtunnel.train.checkpoint import Checkpoint
from windtunnel.train.run import Run, adopt

_BATCH = 8192  # tokens a step of a run that trains on it and names no batch; one window at least
# What an imported model said of its tokenizer and of how answers end, as files of its run.
_TOKENIZER_CONFIG = "tokenizer_config.json"
_GENERATION_CONFIG = "generation_config.json"


def import_model(source: Path, lab: Path, name: str | None = None) -> Run:
    """The run of the model at `source`, the folder of a checkpoint or a GGUF file. Raises
    InputError.
    """
    _check(source)
    layout = layout_of(source)
    found = layout.read(source)
    if reason := one_expert_a_token(found.model):
        raise InputError(f"{source}: {reason}")
    tokenizer = found.tokenizer
    if tokenizer.vocab > found.model.vocab:
        raise InputError(
            f"{source}: its tokenizer has {tokenizer.vocab} tokens, but its model has "
            f"{found.model.vocab} rows"
        )
    weights = _digest(found.weights)
    configs = {
        _TOKENIZER_CONFIG: _json(found.tokenizer_config),
        _GENERATION_CONFIG: _json(found.generation_config),
    }
    said = hashlib.sha256("\n".join(configs.values()).encode()).hexdigest()

    def fill(folder: Path) -> None:
        checkpoint.save(folder / "checkpoints", Checkpoint(0, 0, dict(found.weights), {}))
        tokenizer.save(folder / "tokenizer.json")
        for file, content in configs.items():
            (folder / file).write_text(content, encoding="utf-8")

    recipe = _recipe(name or found.name, found.model, found.context)
    where = Origin(name=found.name, layout=layout.name, weights=weights)
    return adopt(lab, recipe, f"{weights} {tokenizer.sha256} {said}", where, fill)


def brought_configs(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tokenizer_config.json and the generation_config.json that an imported model brought;
    empty for any other run, and where it brought none.
    """
    return _read(run.path / _TOKENIZER_CONFIG), _read(run.path / _GENERATION_CONFIG)


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _check(source: Path) -> None:
    """Raises InputError for what can be neither a folder nor a GGUF file."""
    if not source.exists():
        raise InputError(f"{source}: there is no such folder or file")
    if source.is_file() and source.suffix in PICKLES:
        raise InputError(f"{source}: {NO_PICKLE}")
    if source.is_file() and source.suffix == ".safetensors":
        raise InputError(
            f"{source}: weights alone; expected the folder that holds them with config.json"
        )


def _recipe(name: str, model: Model, context: int) -> Recipe:
    """A recipe of no tokens and no corpus. It has no weight decay: this project's is a share of a
    weight at every step, whatever the rate, and what is right for a first training would wear a
    finished model away.
    """
    # What trains on it says how long and at which rate: `branch`, `sft` and `upcycle` ask for it.
    values = {
        "name": name,
        "model": model.model_dump(),
        "data": {"corpus": "", "context": context},
        "optimizer": {"weight_decay": 0.0},
        "schedule": {"tokens": 0, "warmup": 0, "decay": 0},
        "train": {"batch": context * max(1, _BATCH // context)},
    }
    return parse(values, f"the recipe of {name}")


def _digest(weights: Mapping[str, Tensor]) -> str:
    """sha256 of every tensor's name, type, shape and numbers."""
    # A tensor at a time, as safetensors writes it: the whole is never in memory twice.
    content = hashlib.sha256()
    for name in sorted(weights):
        content.update(save({name: weights[name].contiguous()}))
    return content.hexdigest()
