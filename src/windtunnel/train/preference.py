"""What learning from preferences needs beside the batch: the reference's log-probabilities of every
answer of a corpus, computed once and kept beside it; and how a model does on held-out answers.

    CORPUS/references/RUN-TOKENS-PRECISION.safetensors     nats of each document's answer, by split
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import safetensors
import torch
from safetensors.numpy import save
from torch import Tensor

from windtunnel.data.shards import Corpus, SplitName, TokenStream
from windtunnel.errors import InputError
from windtunnel.files import write_whole
from windtunnel.model.decoder import Decoder
from windtunnel.recipe import Preference, Preferred, Recipe, Seen
from windtunnel.recipe.objective import by_document, compare
from windtunnel.recipe.preference import CHOSEN, REJECTED
from windtunnel.results.run import Engine, PreferenceScore
from windtunnel.train import checkpoint
from windtunnel.train.compiled import keep_shapes
from windtunnel.train.device import autocast
from windtunnel.train.objective import Batch
from windtunnel.train.parallel import ALONE, Ranks, load, sharded
from windtunnel.train.restore import take
from windtunnel.train.run import open_run
from windtunnel.train.validation import losses_of

_AT_ONCE = 64  # windows whose losses are held at once
# Of the held-out answers on which the divergence is measured: it takes two models' whole
# distributions.
_DIVERGENCE_TOKENS = 16_384

Show = Callable[[str, float, float | None], None]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A run's model at one of its checkpoints, and what it makes of a corpus of preferences."""

    lab: Path
    corpus: Corpus
    asked: Preference
    nats: dict[SplitName, np.ndarray]
    """Of each document's answer, fp32 (documents,)."""
    ranks: Ranks = ALONE

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        lab: Path,
        corpus: Corpus,
        engine: Engine,
        show: Show | None = None,
        ranks: Ranks = ALONE,
    ) -> "Reference | None":
        """Out of the corpus's folder, or computed and kept there, by all `ranks`; None for a recipe
        that learns from no preferences. Raises InputError for what was kept of another model, and
        where the reference is neither kept nor there.
        """
        if recipe.preference is None:
            return None
        file = _file(corpus, recipe.preference, engine)
        if ranks.agree(not file.exists()):
            _keep(file, recipe, lab, corpus, engine, show, ranks)
        nats = _kept(file, recipe.preference, lab, corpus)
        return cls(lab=lab, corpus=corpus, asked=recipe.preference, nats=nats, ranks=ranks)

    def told(self, split: SplitName, recipes: Sequence[Recipe], engine: Engine) -> Preferred:
        """What the objective is told of a split, for one recipe, or one a member."""
        betas = [recipe.preference.beta for recipe in recipes if recipe.preference]
        device = torch.device(engine.device)
        beta = torch.tensor(betas, device=device)
        return Preferred(
            loss=self.asked.kind,
            beta=beta[0] if len(recipes) == 1 else beta,
            smoothing=self.asked.label_smoothing,
            per_token=self.asked.by_token,
            reference=torch.from_numpy(self.nats[split]).to(device),
            roles=self._roles(split).to(device),
        )

    def chosen(self, held: Batch) -> Tensor:
        """Which targets of held-out windows belong to chosen answers, (windows, T)."""
        return held.marked & (self._roles("validation")[held.numbers] == CHOSEN)

    def scores(
        self,
        model: Decoder,
        held: Batch,
        nats: np.ndarray,
        recipes: Sequence[Recipe],
        engine: Engine,
    ) -> list[PreferenceScore]:
        """How each member, or the one model, does on held-out windows, of which it gave these
        nats, (members, windows, T). Raises InputError where the reference's checkpoint is gone.
        """
        on_host = engine.model_copy(update={"device": "cpu"})
        apart = self._divergence(model, held, engine)
        scores = []
        for recipe, of_member, divergence in zip(recipes, nats, apart, strict=True):
            told = self.told("validation", [recipe], on_host)
            seen = Seen(learnt=held.marked, documents=held.numbers, preferred=told)
            scores.append(_score(torch.from_numpy(of_member), seen, told, divergence))
        return scores

    def _roles(self, split: SplitName) -> Tensor:
        return torch.from_numpy(_stream(self.corpus, split).roles)

    @torch.no_grad()
    def _divergence(self, model: Decoder, held: Batch, engine: Engine) -> list[float]:
        """KL(model || reference) of the next token, nats, the mean over the tokens of held-out
        answers, of each member or the one model.
        """
        context = held.inputs.shape[-1]
        other = _model(self.asked, self.lab, context, engine, self.ranks)
        answers = held.marked & (self._roles("validation")[held.numbers] <= REJECTED)
        total, count = torch.zeros(model.members or 1), torch.zeros(())
        rows = min(len(held.inputs), max(1, _DIVERGENCE_TOKENS // context))
        each = -(-rows // self.ranks.world)
        for number in range(self.ranks.rank * each, (self.ranks.rank + 1) * each):
            # all ranks go through the models as often, since they meet in them
            row = min(number, rows - 1)
            tokens = held.inputs[row : row + 1].to(engine.device)
            documents = held.numbers[row : row + 1].to(engine.device)
            places = answers[row].nonzero()[:, 0].to(engine.device)
            with autocast(engine.device, engine.precision):
                mine, theirs = (_chances(one, tokens, documents, places) for one in (model, other))
            apart = (mine.exp() * (mine - theirs)).sum(-1)
            if number < rows:
                total += apart.sum(-1).float().cpu().reshape(-1)
                count += len(places)
        total, count = self.ranks.sum(total), self.ranks.sum(count)
        return (total / count.clamp(min=1)).clamp(min=0).tolist()


def _stream(corpus: Corpus, split: SplitName) -> TokenStream:
    (source,) = corpus.sources.values()
    return source.train if split == "train" else source.validation


def _file(corpus: Corpus, asked: Preference, engine: Engine) -> Path:
    name = f"{asked.reference}-{asked.reference_at}-{engine.precision}.safetensors"
    return corpus.folder / "references" / name


def _model(asked: Preference, lab: Path, context: int, engine: Engine, ranks: Ranks) -> Decoder:
    path = lab / "runs" / asked.reference
    if not path.exists():
        raise InputError(f"preference.reference={asked.reference}: {lab} has no such run")
    run = open_run(path)
    shape, seed, at = run.recipe.model, run.recipe.seed, asked.reference_at
    if ranks.world > 1:
        model = sharded(shape, context, seed, engine, ranks)
        load(run.checkpoints, at, dict(model.named_parameters()), {}, ranks)
    else:
        model = Decoder(shape, context, seed).to(engine.device)
        take(model, checkpoint.load(run.checkpoints, at))
    if engine.compiled:
        keep_shapes()
        model.compile_parts()
    return model


def _keep(
    file: Path,
    recipe: Recipe,
    lab: Path,
    corpus: Corpus,
    engine: Engine,
    show: Show | None,
    ranks: Ranks,
) -> None:
    """Compute what the reference makes of a corpus, and write it down."""
    asked = recipe.preference
    assert asked is not None
    model = _model(asked, lab, recipe.data.context, engine, ranks)
    nats = {
        split: _nats(model, _stream(corpus, split), recipe.data.context, engine, show, ranks)
        for split in get_args(SplitName)
    }
    if ranks.first:
        write_whole(file, save(nats, metadata=_said(asked, lab, corpus)), make_folder=True)
    ranks.wait()


def _nats(
    model: Decoder,
    stream: TokenStream,
    context: int,
    engine: Engine,
    show: Show | None,
    ranks: Ranks,
) -> np.ndarray:
    """Of the answer of each document of a stream, fp32 (documents,)."""
    found = np.zeros(stream.documents)
    windows = (stream.tokens - 1) // context
    for first in range(0, windows, _AT_ONCE):
        numbers = np.arange(first, min(first + _AT_ONCE, windows))
        held = torch.from_numpy(stream.marked(numbers * context, context + 1))
        losses = losses_of(model, held, engine, document_end=-1, ranks=ranks)[0][0]
        batch = Batch.read(held)
        learnt = batch.marked.numpy()
        documents = batch.numbers.numpy()[learnt]
        found += np.bincount(documents, losses[learnt], minlength=len(found))
        if show:
            show("log-probabilities of the reference", numbers[-1] + 1, windows)
    return found.astype(np.float32)


def _said(asked: Preference, lab: Path, corpus: Corpus) -> dict[str, str]:
    """What a file says of itself: of which model it is, and of which text."""
    said = {
        "run": asked.reference,
        "tokens": str(asked.reference_at),
        "corpus": corpus.digest,
    }
    folder = checkpoint.path_of(lab / "runs" / asked.reference / "checkpoints", asked.reference_at)
    if folder.exists():
        said["weights"] = checkpoint.weights_of(checkpoint.content_of(folder))
    return said


def _kept(file: Path, asked: Preference, lab: Path, corpus: Corpus) -> dict[SplitName, np.ndarray]:
    """What a file holds. Raises InputError where it is damaged, or of another model or text."""
    again = "remove it, and it is computed again"
    try:
        with safetensors.safe_open(file, "np") as opened:
            said = opened.metadata() or {}
            nats = {split: opened.get_tensor(split) for split in get_args(SplitName)}
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{file}: cannot be read ({error}); {again}") from None
    for key, expected in _said(asked, lab, corpus).items():
        if said.get(key) != expected:
            raise InputError(
                f"{file}: log-probabilities of another model or corpus: its {key} is "
                f"{said.get(key)}, expected {expected}; {again}"
            )
    for split, of_split in nats.items():
        if len(of_split) != _stream(corpus, split).documents:
            raise InputError(f"{file}: it has {len(of_split)} documents of {split}; {again}")
    return nats


def _score(nats: Tensor, seen: Seen, told: Preferred, divergence: float) -> PreferenceScore:
    compared = compare(nats, seen)
    losses = told.loss.smoothed(compared, told.beta[..., None, None], told.smoothing)
    there = compared.there
    # rewards are of whole answers, whatever the loss takes the mean over
    plain = compare(nats, replace(seen, preferred=replace(told, per_token=False)))
    first, second = (told.beta * ratios[there] for ratios in (plain.first, plain.second))
    good = plain.good[there]
    lengths = by_document(seen.learnt.long(), seen).unflatten(-1, (-1, 2))[there].double()
    if told.loss.needs == "pairs":
        chosen, rejected, right = first, second, first - second
        long, short = lengths[:, 0], lengths[:, 1]
    else:
        above = first - second.mean().clamp(min=0)
        chosen, rejected, right = first[good], first[~good], above.where(good, -above)
        long, short = lengths[good, 0], lengths[~good, 0]
    return PreferenceScore(
        loss=losses[there].mean().item(),
        accuracy=((right > 0).double() + (right == 0).double() / 2).mean().item(),
        chosen=_mean(chosen),
        rejected=_mean(rejected),
        margin=_mean(chosen) - _mean(rejected),
        divergence=divergence,
        chosen_tokens=_mean(long),
        rejected_tokens=_mean(short),
        records=int(there.sum()),
    )


def _mean(values: Tensor) -> float:
    """0 of none: all answers may have been judged alike."""
    return values.double().mean().item() if len(values) else 0.0


def _chances(model: Decoder, tokens: Tensor, documents: Tensor, places: Tensor) -> Tensor:
    """Log-probabilities of what comes next at some places of a window: (places, vocab), or
    (P, places, vocab).
    """
    if model.members:
        tokens = tokens.expand(model.members, *tokens.shape)
    hidden = model(tokens, documents)[..., places, :]
    return (hidden @ model.unembedding.mT.to(hidden.dtype)).float().log_softmax(-1)
