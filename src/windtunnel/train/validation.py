"""Loss on held-out text, by source: nats a token and bits a byte."""

import math

import numpy as np
import torch
from torch import Tensor

from windtunnel.data.windows import Windows
from windtunnel.model.decoder import Decoder
from windtunnel.recipe import ObjectiveKind
from windtunnel.results.run import Engine, Score, Validation
from windtunnel.train.device import autocast
from windtunnel.train.objective import Batch


def validate(
    model: Decoder,
    windows: Windows,
    engine: Engine,
    *,
    tokens: int,
    mask_documents: bool,
    objective: ObjectiveKind,
) -> list[Validation]:
    """Score the first `tokens` tokens of every source's validation split, by each member, or by
    the one model. Only what the objective learns counts.
    """
    corpus = windows.corpus
    document_end = corpus.document_end if mask_documents else None
    scores: list[dict[str, Score]] = [{} for _ in range(model.members or 1)]
    weights: dict[str, int] = {}
    uneven: list[np.ndarray] = []
    for name, source in corpus.sources.items():
        held = torch.from_numpy(windows.validation(name, tokens))
        if not len(held):
            continue
        weights[name] = source.validation.tokens
        batch = Batch.read(held)
        learnt = objective.learnt(batch.marked).numpy()
        text_bytes = int(corpus.tokenizer.token_bytes[batch.targets.numpy()[learnt]].sum())
        by_member, unevenness = _losses(model, held, engine, document_end)
        for of_member, losses in zip(scores, by_member, strict=True):
            of_member[name] = _score(losses[learnt], text_bytes)
        if unevenness is not None:
            uneven.append(unevenness)
    validations = [_over_all(of_member, weights) for of_member in scores]
    if not uneven:
        return validations
    means = np.concatenate(uneven, axis=1).mean(axis=1) / model.model.depth
    return [
        validation.model_copy(update={"unevenness": mean})
        for validation, mean in zip(validations, means.tolist(), strict=True)
    ]


def _score(nats: np.ndarray, text_bytes: int) -> Score:
    """Of targets that stand for so many bytes of text."""
    bits = nats.sum() / math.log(2)
    return Score(loss=nats.mean(), bits_per_byte=bits / max(1, text_bytes), tokens=nats.size)


def _over_all(scores: dict[str, Score], weights: dict[str, int]) -> Validation:
    total = sum(weights.values())

    def mean(key: str) -> float:
        return sum(getattr(scores[name], key) * weight for name, weight in weights.items()) / total

    return Validation(
        loss=mean("loss"),
        bits_per_byte=mean("bits_per_byte"),
        tokens=sum(score.tokens for score in scores.values()),
        sources=scores,
    )


def _losses(
    model: Decoder, held: Tensor, engine: Engine, document_end: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Nats of every target, (members, windows, context), and the unevenness of every window,
    (members, windows), where there are experts. In batches of the training shape: another shape,
    or a forward pass without gradients, would be compiled anew.
    """
    rows, members = engine.micro_batch // (held.shape[1] - 1), model.members or 1
    losses, uneven = [], []
    for part in held.split(rows):
        padded = torch.cat([part, part[:1].expand(rows - len(part), -1)])
        if model.members:
            padded = padded.expand(members, *padded.shape)
        batch = Batch.read(padded.to(engine.device))
        documents = batch.documents(document_end)
        with autocast(engine):
            nats, unevenness = model.losses_and_unevenness(batch.inputs, batch.targets, documents)
        by_window = _on_the_host(nats).reshape(members, rows, -1)
        losses.append(by_window[:, : len(part)])
        if unevenness is not None:
            uneven.append(_on_the_host(unevenness).reshape(members, rows)[:, : len(part)])
    return np.concatenate(losses, axis=1), np.concatenate(uneven, axis=1) if uneven else None


def _on_the_host(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()
