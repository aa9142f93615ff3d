"""What an export is made of: a run's model at one checkpoint, and all that is said of it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from windtunnel.data.chat_format import find_format
from windtunnel.data.shards import Corpus
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.ship.held_out import HeldOut, documentation, held_out
from windtunnel.ship.import_model import brought_config
from windtunnel.ship.portable import PortableModel
from windtunnel.train.loop import load_model
from windtunnel.train.run import Run, checkpoint_at, lineage, open_corpus

# Tokens of a held-out sequence, at most: 256 of them are scored. Enough for RoPE to matter, and
# few enough for llama.cpp, which scores them one by one.
_WINDOW = 257


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run's model at one of its checkpoints. Everything is read once, by `of`."""

    run: Run
    tokens: int
    """The checkpoint: tokens that the run was trained on by then."""
    lineage: list[Run]
    """The run, its parent, and so on to the first."""
    corpus: Corpus | None
    """What the run was trained on; None for an imported model, which has none."""
    portable: PortableModel

    @classmethod
    def of(cls, run: Run, at: int | None = None) -> "Subject":
        """The run's model at `at` tokens, or at its last checkpoint. Raises InputError."""
        tokens = checkpoint_at(run, at)
        line = lineage(run)
        corpus = None if run.recipe.is_imported else open_corpus(run.lab, run.recipe)
        tokenizer = _tokenizer(run, corpus)
        model = load_model(run, tokens)
        portable = PortableModel(
            name=run.recipe.name,
            model=run.recipe.model,
            weights={name: parameter.detach() for name, parameter in model.named_parameters()},
            context=max(one.recipe.data.context for one in line),
            tokenizer=tokenizer,
            tokenizer_config=_tokenizer_config(tokenizer, line[-1], corpus),
        )
        return cls(run=run, tokens=tokens, lineage=line, corpus=corpus, portable=portable)

    @cached_property
    def held_out(self) -> HeldOut:
        """Text of the run's corpus that it was not trained on; for an imported model, Python's own
        documentation. Raises InputError where no validation split is long enough.
        """
        length = min(_WINDOW, self.portable.context)
        if self.corpus is None:
            return documentation(self.portable.tokenizer, length)
        return held_out(self.corpus, length)


def _tokenizer(run: Run, corpus: Corpus | None) -> Tokenizer:
    """An imported model's own, or the corpus's."""
    if corpus and run.tokenizer == corpus.folder / "tokenizer.json":
        return corpus.tokenizer
    return Tokenizer.load(run.tokenizer)


def _tokenizer_config(tokenizer: Tokenizer, first: Run, corpus: Corpus | None) -> dict[str, Any]:
    """tokenizer_config.json as an imported ancestor brought it, or ours: nothing is put before or
    after a text. The template is the one that was learnt in fine-tuning, if there was any; a
    tokenizer without tokens for a conversation has none.
    """
    settings = brought_config(first)
    if not settings:
        end = tokenizer.decode([tokenizer.eos])
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": end,
            "pad_token": end,
            "clean_up_tokenization_spaces": False,
        }
    if corpus and corpus.manifest.packing:
        settings["chat_template"] = corpus.manifest.packing.template
    elif "chat_template" not in settings and (form := find_format(tokenizer)):
        settings["chat_template"] = form.template
    return settings
