"""Loss on held-out text, by source: nats a token and bits a byte."""

import numpy as np
import torch
from torch import Tensor

from windtunnel.data.windows import Windows
from windtunnel.model.decoder import Decoder
from windtunnel.results.run import Engine, Score, Validation
from windtunnel.train.device import autocast
from windtunnel.train.objective import document_numbers, split

_LN2 = float(np.log(2))


def validate(
    model: Decoder, windows: Windows, engine: Engine, tokens: int, mask_documents: bool
) -> list[Validation]:
    """Score the first `tokens` tokens of every source's validation split, by each member, or by
    the one model. Of conversations only what is learnt counts: the assistant's words.
    """
    bytes_of = windows.corpus.tokenizer.token_bytes
    document_end = windows.corpus.document_end if mask_documents else None
    scores: list[dict[str, Score]] = [{} for _ in range(model.members or 1)]
    weights, uneven = {}, list[np.ndarray]()
    for name, source in windows.corpus.sources.items():
        held = torch.from_numpy(windows.validation(name, tokens))
        if len(held):
            _, targets, asked, _ = (part.numpy() for part in split(held))
            text_bytes = int(bytes_of[targets[asked]].sum())
            of_members, unevenness = _losses(model, held, engine, document_end)
            if unevenness is not None:
                uneven.append(unevenness)
            for by_source, losses in zip(scores, of_members, strict=True):
                nats = losses[asked]
                by_source[name] = Score(
                    loss=nats.mean(),
                    bits_per_byte=nats.sum() / _LN2 / max(1, text_bytes),
                    tokens=nats.size,
                )
            weights[name] = source.validation.tokens
    means = (
        (np.concatenate(uneven, axis=1).mean(axis=1) / model.model.depth).tolist()
        if uneven
        else [None] * len(scores)
    )
    return [
        _over_all(by_source, weights, mean) for by_source, mean in zip(scores, means, strict=True)
    ]


def _over_all(
    scores: dict[str, Score], weights: dict[str, int], unevenness: float | None
) -> Validation:
    total = sum(weights.values())

    def mean(key: str) -> float:
        return sum(getattr(scores[name], key) * weight for name, weight in weights.items()) / total

    return Validation(
        loss=mean("loss"),
        bits_per_byte=mean("bits_per_byte"),
        tokens=sum(score.tokens for score in scores.values()),
        sources=scores,
        unevenness=unevenness,
    )


def _losses(
    model: Decoder, held: Tensor, engine: Engine, document_end: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Nats of every target, (members, windows, context), and the unevenness of every window,
    (members, windows), where there are experts. In batches of the training shape: another shape,
    or a forward pass without gradients, would be compiled anew.
    """
    rows, members = engine.micro_batch // (held.shape[1] - 1), model.members or 1

    def kept(values: Tensor, part: Tensor) -> np.ndarray:
        return values.detach().cpu().double().numpy().reshape(members, rows, -1)[:, : len(part)]

    losses, uneven = [], []
    for part in held.split(rows):
        padded = torch.cat([part, part[:1].expand(rows - len(part), -1)])
        if model.members:
            padded = padded.expand(members, *padded.shape)
        inputs, targets, _, numbers = split(padded.to(engine.device))
        documents = (
            None if document_end is None else numbers + document_numbers(inputs, document_end)
        )
        with autocast(engine):
            nats, unevenness = model.losses_and_unevenness(inputs, targets, documents)
        losses.append(kept(nats, part))
        if unevenness is not None:
            uneven.append(kept(unevenness, part)[..., 0])
    return np.concatenate(losses, axis=1), np.concatenate(uneven, axis=1) if uneven else None
