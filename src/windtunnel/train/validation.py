"""Loss on held-out text, by source: nats a token and bits a byte."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from windtunnel.data.windows import Windows
from windtunnel.model.decoder import Decoder
from windtunnel.recipe import ObjectiveKind, Recipe
from windtunnel.results.run import Engine, PreferenceScore, Score, Validation
from windtunnel.train.device import autocast
from windtunnel.train.objective import Batch
from windtunnel.train.parallel import ALONE, Ranks

if TYPE_CHECKING:
    from windtunnel.train.preference import Reference


def validate(
    model: Decoder,
    windows: Sequence[Windows],
    engine: Engine,
    *,
    tokens: int,
    mask_documents: bool,
    objective: ObjectiveKind,
    reference: Reference | None = None,
    recipes: Sequence[Recipe] = (),
    ranks: Ranks = ALONE,
) -> list[Validation | None]:
    """Score `tokens` tokens spread over every source's validation split, by each member, or by
    the one model; `windows`: what each of them reads, from one corpus. Only what the objective
    learns counts; of preferences, against the `reference`, by each one's recipe, the chosen
    answers. None for who reads of no source that holds out a whole window.
    """
    corpus = windows[0].corpus
    document_end = corpus.document_end if mask_documents else None
    scores: list[dict[str, Score]] = [{} for _ in windows]
    text_bytes: dict[str, int] = {}
    uneven: list[np.ndarray] = []
    preferred: list[PreferenceScore] = []
    for name in corpus.sources:
        held = torch.from_numpy(windows[0].validation(name, tokens))
        if not len(held):
            continue
        batch = Batch.read(held)
        counted = reference.chosen(batch) if reference else objective.learnt(batch.marked)
        learnt = counted.numpy()
        targets = batch.targets.numpy()[learnt]
        text_bytes[name] = int(corpus.tokenizer.token_bytes[targets].sum())
        by_member, unevenness = losses_of(model, held, engine, document_end, ranks)
        for of_member, losses in zip(scores, by_member, strict=True):
            of_member[name] = _score(losses[learnt], text_bytes[name])
        if reference:
            preferred = reference.scores(model, batch, by_member, recipes, engine)
        if unevenness is not None:
            uneven.append(unevenness)
    validations = [
        over_all(of_member, text_bytes, read.weights)
        for of_member, read in zip(scores, windows, strict=True)
    ]
    if preferred:
        validations = [
            validation and validation.model_copy(update={"preference": found})
            for validation, found in zip(validations, preferred, strict=True)
        ]
    if not uneven:
        return validations
    # what a window has is summed over its layers
    means = np.concatenate(uneven, axis=1).mean(axis=1) / model.model.depth
    return [
        validation and validation.model_copy(update={"unevenness": mean})
        for validation, mean in zip(validations, means.tolist(), strict=True)
    ]


def _score(nats: np.ndarray, text_bytes: int) -> Score:
    """Of targets that stand for so many bytes of text."""
    # over the bytes that the same targets stand for, so vocabularies of any size compare
    bits = nats.sum() / math.log(2)
    return Score(loss=nats.mean(), bits_per_byte=bits / max(1, text_bytes), tokens=nats.size)


def over_all(
    scores: dict[str, Score], text_bytes: Mapping[str, int], mixture: Mapping[str, float]
) -> Validation | None:
    """What the scores by source come to on text of the mixture that is trained; `text_bytes`: of
    the text that was scored, by source. Sources of the mixture without a score are left out; None
    where all are.
    """
    nats, size, total = 0.0, 0.0, 0.0
    for name, score in scores.items():
        share = mixture.get(name, 0.0)
        total += share
        nats += share * score.loss
        size += share * max(1, text_bytes[name]) / score.tokens
    if not total:
        return None
    # Nats and bytes of a token each: a mean of their ratios would be the ratio of no text.
    return Validation(
        loss=nats / total,
        bits_per_byte=nats / math.log(2) / size,
        tokens=sum(score.tokens for score in scores.values()),
        sources=scores,
    )


def losses_of(
    model: Decoder,
    held: Tensor,
    engine: Engine,
    document_end: int | None,
    ranks: Ranks = ALONE,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Nats of every target, (members, windows, context), and the unevenness of every window,
    (members, windows), where there are experts. In batches of the training shape: another one
    would be compiled anew. Each rank scores equal parts, and all learn what they found.
    """
    rows, members = engine.micro_batch // (held.shape[1] - 1), model.members or 1
    losses, uneven = [], []
    parts = held.split(rows)
    each = -(-len(parts) // ranks.world)
    for number in range(ranks.rank * each, (ranks.rank + 1) * each):
        # all ranks go through the model as often, since they meet in it
        part = parts[min(number, len(parts) - 1)]
        padded = torch.cat([part, part[:1].expand(rows - len(part), -1)])
        if model.members:
            padded = padded.expand(members, *padded.shape)
        batch = Batch.read(padded.to(engine.device))
        documents = batch.documents(document_end)
        with torch.no_grad(), autocast(engine.device, engine.precision):
            nats, unevenness = model.losses_and_unevenness(batch.inputs, batch.targets, documents)
        losses.append(nats.cpu().double().view(members, rows, -1))
        if unevenness is not None:
            uneven.append(unevenness.cpu().double().view(members, rows))
    return (
        _joined(losses, len(held), ranks),
        _joined(uneven, len(held), ranks) if uneven else None,
    )


def _joined(parts: list[Tensor], windows: int, ranks: Ranks) -> np.ndarray:
    """What all ranks found, (members, rows, ...) a part, of so many windows."""
    mine = torch.cat(parts, dim=1).transpose(0, 1)
    return ranks.join(mine)[:windows].transpose(0, 1).contiguous().numpy()
