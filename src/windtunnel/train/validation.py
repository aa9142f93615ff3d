"""Loss on held-out text, by source: nats a token and bits a byte."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from windtunnel.data.windows import Windows
from windtunnel.model.decoder import Decoder
from windtunnel.train.device import Engine
from windtunnel.train.objective import document_numbers, split

_LN2 = float(np.log(2))


@dataclass(frozen=True)
class Score:
    """`loss` in nats a token; `bits_per_byte` of the text that those tokens stand for, so
    vocabularies compare.
    """

    loss: float
    bits_per_byte: float
    tokens: int


@dataclass(frozen=True)
class Validation:
    """Scores by source, and `overall`: their mean, weighted by the tokens of each whole
    validation split. Mixtures do not enter, so runs that differ in mixture compare. `unevenness`:
    of the experts, if there are any, in a window (near 1: all are used alike), the mean over
    windows and layers.
    """

    overall: Score
    sources: dict[str, Score]
    unevenness: float | None = None

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self.overall) | {
            "sources": {name: asdict(score) for name, score in self.sources.items()}
        }
        return found if self.unevenness is None else found | {"unevenness": self.unevenness}


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
                    nats.mean(), nats.sum() / _LN2 / max(1, text_bytes), nats.size
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
    mean = {
        key: sum(getattr(scores[n], key) * w for n, w in weights.items()) / total
        for key in ("loss", "bits_per_byte")
    }
    return Validation(
        Score(**mean, tokens=sum(s.tokens for s in scores.values())), scores, unevenness
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
        with engine.autocast():
            nats, unevenness = model.losses_and_unevenness(inputs, targets, documents)
        losses.append(kept(nats, part))
        if unevenness is not None:
            uneven.append(kept(unevenness, part)[..., 0])
    return np.concatenate(losses, axis=1), np.concatenate(uneven, axis=1) if uneven else None
