"""A model that was trained elsewhere, as a run of the lab: a stem at 0 tokens, which can be
branched and exported.

It has its weights as the checkpoint at 0, without optimiser moments, and its own tokenizer; no
corpus, rate or loss. Who trains on it says on which text and at which rate. The content of the
weights and the tokenizer is its identity, so importing a model twice gives one run.
"""

import hashlib
import json
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.recipe import Model, Recipe, parse
from windtunnel.results.run import Origin
from windtunnel.ship.huggingface import NO_PICKLE, PICKLES, Foreign, read
from windtunnel.train import checkpoint
from windtunnel.train.checkpoint import Checkpoint
from windtunnel.train.run import Run, adopt, lineage

_BATCH = 8192  # tokens a step of what trains on it and says nothing else; at least one window
_CONFIG = "tokenizer_config.json"


def import_model(source: Path, lab: Path, name: str | None = None) -> Run:
    """The run of a model at `source`: the folder of a checkpoint, or a GGUF file. Raises
    InputError.
    """
    found = _read(source)
    tokenizer = Tokenizer(found.tokenizer, str(source))
    if tokenizer.vocab > found.model.vocab:
        raise InputError(
            f"{source}: its tokenizer has {tokenizer.vocab} tokens, its model {found.model.vocab} rows"
        )
    recipe = _recipe(name or found.name, found.model, found.context)
    weights = _digest(found.weights)

    def fill(folder: Path) -> None:
        checkpoint.save(folder / "checkpoints", Checkpoint(0, 0, found.weights, {}))
        tokenizer.save(folder / "tokenizer.json")
        (folder / _CONFIG).write_text(
            json.dumps(found.tokenizer_config, indent=1, ensure_ascii=False)
        )

    where = Origin(name=found.name, layout=found.layout, weights=weights)
    return adopt(lab, recipe, f"{weights} {tokenizer.sha256}", where, fill)


def tokenizer_config(run: Run) -> dict[str, object]:
    """tokenizer_config.json as an imported ancestor brought it; empty for a run whose tokenizer
    was made here.
    """
    file = lineage(run)[-1].path / _CONFIG
    return json.loads(file.read_text()) if file.exists() else {}


def _read(source: Path) -> Foreign:
    if source.is_dir():
        return read(source)
    if not source.exists():
        raise InputError(f"{source}: there is no such folder or file")
    if source.suffix in PICKLES:
        raise InputError(f"{source}: {NO_PICKLE}")
    if source.suffix == ".safetensors":
        raise InputError(
            f"{source}: weights alone; expected the folder that holds them with config.json"
        )
    return _read_gguf(source)


def _read_gguf(file: Path) -> Foreign:
    from windtunnel.ship import gguf
    from windtunnel.ship.gguf_file import metadata

    found, fields = gguf.read(file), metadata(file)
    tokens = fields["tokenizer.ggml.tokens"]
    settings: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role in ("bos", "eos"):
        if (index := fields.get(f"tokenizer.ggml.{role}_token_id")) is not None:
            settings[f"{role}_token"] = tokens[index]
    if found.about.chat_template:
        settings["chat_template"] = found.about.chat_template
    return Foreign(
        found.model,
        found.weights,
        found.about.context,
        found.tokenizer,
        settings,
        "gguf",
        found.about.name,
    )


def _recipe(name: str, model: Model, context: int) -> Recipe:
    """Of no tokens and no corpus. No weight decay: this project's is a share of a weight at every
    step, whatever the rate, and what is right for a first training would wear a finished model
    away.
    """
    values = {
        "name": name,
        "model": model.model_dump(),
        "data": {"corpus": "", "context": context},
        "optimizer": {"weight_decay": 0.0},
        "schedule": {"tokens": 0, "warmup": 0, "decay": 0},
        "train": {"batch": context * max(1, _BATCH // context)},
    }
    return parse(values, f"the recipe of {name}")


def _digest(weights: dict[str, Tensor]) -> str:
    """sha256 of every tensor's name, type, shape and numbers."""
    content = hashlib.sha256()
    for name in sorted(weights):
        content.update(save({name: weights[name].contiguous()}))
    return content.hexdigest()
