"""What an export is made of: a run's model at one checkpoint, and all that is said of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from windtunnel.data.shards import Corpus
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.ship.held_out import HeldOut, documentation, held_out
from windtunnel.ship.portable import PortableModel
from windtunnel.ship.spoken import spoken
from windtunnel.train.loop import load_model
from windtunnel.train.run import Run, checkpoint_at, lineage, longest_seen, open_corpus

# Tokens of a held-out sequence, at most: 256 of them are scored. Enough for RoPE to matter, and
# few enough for llama.cpp, which scores them one by one.
_WINDOW = 257
# Of one that reaches beyond the context before RoPE was scaled: its logits are held together.
_LONGEST = 8192 + _WINDOW


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run's model at one of its checkpoints. Everything is read once, by `of`."""

    run: Run
    tokens: int
    """The checkpoint: tokens that the run was trained on by then."""
    lineage: list[Run]
    """The run, its parent, and so on to the first."""
    corpora: Mapping[str, Corpus]
    """By the id of the run that read it, where the lab still holds it as it was."""
    portable: PortableModel

    @classmethod
    def of(cls, run: Run, at: int | None = None) -> "Subject":
        """The run's model at `at` tokens, or at its last checkpoint. Raises InputError."""
        tokens = checkpoint_at(run, at)
        line = lineage(run)
        corpus = None if run.recipe.is_imported else open_corpus(run.lab, run.recipe)
        tokenizer = _tokenizer(run, corpus)
        corpora = corpora_of(line, corpus)
        said = spoken(line, corpora, tokenizer)
        model = load_model(run, tokens)
        portable = PortableModel(
            name=run.recipe.name,
            model=run.recipe.model,
            weights={name: parameter.detach() for name, parameter in model.named_parameters()},
            context=longest_seen(line),
            tokenizer=tokenizer,
            tokenizer_config=said.tokenizer_config,
            generation_config=said.generation_config,
        )
        return cls(run=run, tokens=tokens, lineage=line, corpora=corpora, portable=portable)

    @property
    def corpus(self) -> Corpus | None:
        """What the run was trained on; None for an imported model, which has none."""
        return self.corpora.get(self.run.id)

    @cached_property
    def held_out(self) -> HeldOut:
        """Text of the run's corpus that it was not trained on; for an imported model, Python's own
        documentation. Raises InputError where no validation split is long enough.
        """
        length, skip = min(_WINDOW, self.portable.context), 0
        before = self.portable.model.rope_original
        beyond = min(before + _WINDOW, self.portable.context)
        if 0 < before < beyond - 1 and beyond <= _LONGEST and self._holds(beyond):
            length, skip = beyond, before  # beyond the context before RoPE was scaled
        if self.corpus is None:
            return documentation(self.portable.tokenizer, length, skip)
        return held_out(self.corpus, length, skip=skip)

    def _holds(self, tokens: int) -> bool:
        """Whether there is held-out text of so many tokens."""
        if self.corpus is None:
            return True
        return any(one.validation.tokens >= tokens for one in self.corpus.sources.values())


def _tokenizer(run: Run, corpus: Corpus | None) -> Tokenizer:
    """An imported model's own, or the corpus's."""
    if corpus and run.tokenizer == corpus.folder / "tokenizer.json":
        return corpus.tokenizer
    return Tokenizer.load(run.tokenizer)


def corpora_of(line: list[Run], first: Corpus | None = None) -> dict[str, Corpus]:
    """By the run that read it: of each run of the line, where the lab still holds the corpus as it
    was read. `first`: that of the first run, where it is open already.
    """
    found = {line[0].id: first} if first else {}
    opened = {first.folder: first} if first else {}
    for run in line:
        if run.id in found:
            continue
        folder = run.lab / "corpora" / run.recipe.data.corpus
        if not run.corpus or not (folder / "manifest.json").exists():
            continue
        if folder not in opened:
            opened[folder] = Corpus.open(folder)
        # one that was built again under its name is another one
        if opened[folder].digest == run.corpus:
            found[run.id] = opened[folder]
    return found
