"""A run's model in a form that other tools read: written beside its place, checked with a real
engine, put there.
"""

import dataclasses
import os
import pydoc_data.topics
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from torch import Tensor

from windtunnel.data.chat_format import format_of
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.quantities import format_tokens
from windtunnel.ship import gguf, huggingface
from windtunnel.ship.card import card
from windtunnel.ship.import_model import tokenizer_config
from windtunnel.ship.quantise import Row, table_of
from windtunnel.ship.verify import ODD_LINES, Agreement, HeldOut, held_out, verify
from windtunnel.train import checkpoint
from windtunnel.train.loop import load_model
from windtunnel.train.run import Run, context_of, open_corpus

To = Literal["hf", "minicpm", "llama", "gguf"]
_WINDOW = 257  # tokens of a held-out sequence, at most: 256 of them are scored
_HELD_OUT = 2000
# Weights that were rounded can't give the same probabilities; they may change the bits a byte by
# this share.
_ROUNDED = {"bf16": 0.005, "fp16": 0.001}


@dataclass(frozen=True)
class Exported:
    path: Path  # the folder
    to: To
    dtype: str
    tokens: int  # where the run stood
    agreement: Agreement


class Off(Exception):
    """What was written is not the model: an engine gives other probabilities, or other ids."""


def export(
    run: Run,
    to: To,
    out: Path | None = None,
    at: int | None = None,
    dtype: str = "",
    overwrite: bool = False,
) -> Exported:
    """Write the run's model at its last checkpoint, or the one at `at` tokens, into the folder
    `out`; `dtype`: one of `dtypes(to)`, the first if none. Raises InputError for what can't be
    written so, and Off where the engine that reads it does not agree; nothing is left then.
    """
    dtype = dtype or dtypes(to)[0]
    weights = {name: p.detach() for name, p in load_model(run, at).named_parameters()}
    tokens = checkpoint.positions(run.checkpoints)[-1] if at is None else at
    out = out or run.lab / "exports" / _name(run, to, dtype, at)
    with _appearing(out, overwrite) as part:
        written = _write(part, run, weights, to, dtype)
        tokenizer = Tokenizer.load(run.tokenizer)
        agreement = verify(
            run.recipe.model, weights, to, written, tokenizer, _held_out(run, tokenizer)
        )
        if dtype in _ROUNDED:
            agreement = dataclasses.replace(agreement, most=None, most_change=_ROUNDED[dtype])
        if not agreement.good:
            raise Off(f"{out} was not written, it would be off: {agreement}")
        (part / "README.md").write_text(
            card(run, to, dtype, tokens, f"{agreement}."), encoding="utf-8"
        )
    return Exported(out, to, dtype, tokens, agreement)


def export_table(
    run: Run, out: Path | None = None, overwrite: bool = False
) -> tuple[Path, list[Row]]:
    """Write the run's last checkpoint as GGUF in every precision into the folder `out`; returns
    it, and what each file is worth. Raises InputError.
    """
    out = out or run.lab / "exports" / f"{_plain(run.recipe.name)}-{run.id}-table"
    with _appearing(out, overwrite) as part:
        return out, table_of(run, part)


def dtypes(to: To) -> tuple[str, ...]:
    """How the numbers of this layout can be kept, the usual one first."""
    return gguf.QUANTISATIONS if to == "gguf" else tuple(huggingface.DTYPES)


def _write(folder: Path, run: Run, weights: dict[str, Tensor], to: To, dtype: str) -> Path:
    """Into an empty folder; returns what an engine loads."""
    model, context = run.recipe.model, context_of(run)
    tokenizer = Tokenizer.load(run.tokenizer)
    settings = _tokenizer_config(run, tokenizer)
    if to != "gguf":
        huggingface.write(folder, to, model, weights, context, tokenizer, settings, dtype)
        return folder
    file = folder / f"{_plain(run.recipe.name)}-{dtype}.gguf"
    about = gguf.About(run.recipe.name, context, settings.get("chat_template") or "")
    gguf.write(model, weights, run.tokenizer, file, dtype, about)
    return file


def _tokenizer_config(run: Run, tokenizer: Tokenizer) -> dict[str, Any]:
    """What an imported model brought, or ours: nothing is put before or behind a text. The
    template is the one that was learnt, if one was.
    """
    settings = tokenizer_config(run)
    if not settings:
        end = tokenizer.decode([tokenizer.eos])
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": end,
            "pad_token": end,
            "clean_up_tokenization_spaces": False,
        }
    packing = None if run.recipe.is_imported else open_corpus(run.lab, run.recipe).manifest.packing
    if packing:
        settings["chat_template"] = packing.template
    if "chat_template" not in settings:
        try:
            settings["chat_template"] = format_of(tokenizer).template
        except InputError:
            return settings  # a tokenizer without tokens for a conversation
    return settings


def _held_out(run: Run, tokenizer: Tokenizer) -> HeldOut:
    """Of the run's corpus; for an imported model, which has none, Python's own documentation."""
    length = min(_WINDOW, context_of(run))
    if not run.recipe.is_imported:
        return held_out(open_corpus(run.lab, run.recipe), length, _HELD_OUT)
    text = "\n".join(pydoc_data.topics.topics.values())
    count = -(-_HELD_OUT // (length - 1))
    windows = tokenizer.encode(text)[: count * length].astype(np.int64).reshape(-1, length)
    lines = [line for line in text.split("\n") if line][: 1000 - len(ODD_LINES)]
    return HeldOut(windows, int(tokenizer.token_bytes[windows[:, 1:]].sum()), (*ODD_LINES, *lines))


@contextmanager
def _appearing(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, which becomes `out` at the end; nothing is left of one that did not
    come so far.
    """
    _refuse_taken(out, overwrite)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{out}: could not be written: {getattr(error, 'strerror', None) or error}"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _refuse_taken(out: Path, overwrite: bool) -> None:
    """Only an empty place is written to, or an export whose owner said so."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (any(out.glob("*.gguf")) or (out / "config.json").exists()):
        raise InputError(f"{out}: exists and is not an export; choose another --out")
    if not overwrite:
        raise InputError(
            f"{out}: an export is here already; say --overwrite to replace it, or choose another --out"
        )


def _name(run: Run, to: To, dtype: str, at: int | None) -> str:
    parts = [
        _plain(run.recipe.name),
        run.id,
        *([format_tokens(at)] if at is not None else []),
        to,
        dtype.lower(),
    ]
    return "-".join(parts)


def _plain(name: str) -> str:
    """A name that a file can have anywhere."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
