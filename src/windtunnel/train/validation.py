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
    """`loss` in nats a token; `bits_per_byte` of the text that those tokens stand for, so vocabularies compare."""

    loss: float
    bits_per_byte: float
    tokens: int


@dataclass(frozen=True)
class Validation:
    """Scores by source, and `overall`: their mean, weighted by the tokens of each whole validation split. Mixtures do
    not enter, so runs that differ in mixture compare."""

    overall: Score
    sources: dict[str, Score]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self.overall) | {"sources": {name: asdict(score) for name, score in self.sources.items()}}


def validate(model: Decoder, windows: Windows, engine: Engine, tokens: int, mask_documents: bool) -> list[Validation]:
    """Score the first `tokens` tokens of every source's validation split, by each member, or by the one model. Of
    conversations only what is learnt counts: the assistant's words."""
    bytes_of = windows.corpus.tokenizer.token_bytes
    document_end = windows.corpus.document_end if mask_documents else None
    scores: list[dict[str, Score]] = [{} for _ in range(model.members or 1)]
    weights = {}
    for name, source in windows.corpus.sources.items():
        held = torch.from_numpy(windows.validation(name, tokens))
        if len(held):
            _, targets, asked, _ = (part.numpy() for part in split(held))
            text_bytes = int(bytes_of[targets[asked]].sum())
            for by_source, losses in zip(scores, _losses(model, held, engine, document_end), strict=True):
                nats = losses[asked]
                by_source[name] = Score(nats.mean(), nats.sum() / _LN2 / max(1, text_bytes), nats.size)
            weights[name] = source.validation.tokens
    return [_over_all(by_source, weights) for by_source in scores]


def _over_all(scores: dict[str, Score], weights: dict[str, int]) -> Validation:
    total = sum(weights.values())
    mean = {
        key: sum(getattr(scores[n], key) * w for n, w in weights.items()) / total for key in ("loss", "bits_per_byte")
    }
    return Validation(Score(**mean, tokens=sum(s.tokens for s in scores.values())), scores)


def _losses(model: Decoder, held: Tensor, engine: Engine, document_end: int | None) -> np.ndarray:
    """Nats of every target, (members, windows, context), in batches of the training shape: another shape, or a forward
    pass without gradients, would be compiled anew."""
    rows = engine.micro_batch // (held.shape[1] - 1)
    losses = []
    for part in held.split(rows):
        padded = torch.cat([part, part[:1].expand(rows - len(part), -1)])
        if model.members:
            padded = padded.expand(model.members, *padded.shape)
        inputs, targets, _, numbers = split(padded.to(engine.device))
        documents = None if document_end is None else numbers + document_numbers(inputs, document_end)
        with engine.autocast():
            nats = model.losses(inputs, targets, documents).detach()
        losses.append(nats.float().cpu().numpy().reshape(model.members or 1, rows, -1)[:, : len(part)])
    return np.concatenate(losses, axis=1).astype(np.float64)
