"""Small models with random weights, of the shapes and settings that exports and imports must get
right.
"""

from typing import Any

import torch
from torch import Tensor

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.model.decoder import Decoder
from windtunnel.model.init import initial_tensors
from windtunnel.model.roles import Multipliers
from windtunnel.recipe import Model
from windtunnel.ship.portable import PortableModel

VOCAB = 320  # of the test's corpus
SHAPES: dict[str, dict[str, Any]] = {
    "tied": {"width": 64, "depth": 3, "heads": 4, "base_width": 16},
    "grouped": {
        "width": 96,
        "depth": 2,
        "heads": 6,
        "kv_heads": 2,
        "base_width": 32,
        "scale_emb": 10.0,
    },
    "untied": {"width": 64, "depth": 2, "heads": 2, "tied": False, "base_width": 32},
    "odd width": {
        "width": 100,
        "depth": 5,
        "heads": 5,
        "kv_heads": 1,
        "ffn": 172,
        "base_width": 40,
        "norm_eps": 1e-6,
    },
    "own head size": {"width": 48, "depth": 2, "heads": 2, "head_size": 32, "base_width": 16},
    "long RoPE": {"width": 64, "depth": 2, "heads": 2, "rope_base": 1_000_000.0, "base_width": 16},
    "completep": {
        "width": 64,
        "depth": 6,
        "heads": 4,
        "base_width": 16,
        "base_depth": 2,
        "parametrization": "completep",
    },
    "standard": {
        "width": 64,
        "depth": 2,
        "heads": 4,
        "parametrization": "standard",
        "init_std": 0.05,
    },
    "experts": {
        "width": 64,
        "depth": 3,
        "heads": 4,
        "kv_heads": 2,
        "ffn": 96,
        "experts": 8,
        "base_width": 16,
    },
    "standard experts": {
        "width": 96,
        "depth": 2,
        "heads": 4,
        "ffn": 144,
        "experts": 5,
        "experts_per_token": 3,
        "tied": False,
        "parametrization": "standard",
        "init_std": 0.02,
    },
}


def model_of(shape: str) -> Model:
    return Model.model_validate({"vocab": VOCAB} | SHAPES[shape])


def weights_of(model: Model, seed: int = 0) -> dict[str, Tensor]:
    """As after training: gains are not one any more, and what the model says is not all alike."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor * (tensor.dim() + 0.2 * torch.randn(tensor.shape, generator=generator))
        for name, tensor in initial_tensors(model, seed).items()
    }


def portable_of(
    model: Model,
    weights: dict[str, Tensor],
    tokenizer: Tokenizer,
    context: int = 64,
    **tokenizer_config: Any,
) -> PortableModel:
    return PortableModel(
        name="x",
        model=model,
        weights=weights,
        context=context,
        tokenizer=tokenizer,
        tokenizer_config=tokenizer_config,
    )


def logits_of(model: Model, weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Our forward pass, (batch, T, vocab)."""
    decoder = Decoder(model, tokens.shape[1])
    decoder.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    with torch.no_grad():
        return decoder.logits(tokens)


def some_tokens(rows: int = 4, length: int = 50) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def reference(model: Model, weights: dict[str, Tensor], m: Multipliers, tokens: Tensor) -> Tensor:
    """Logits by the published formula (paper.md 10.3), a sequence and a head at a time, in the
    weights' precision.
    """
    head = weights["embedding"] if model.tied else weights["head"]
    return torch.stack([_sequence(model, weights, m, row) @ head.T * m.logits for row in tokens])


def _sequence(model: Model, weights: dict[str, Tensor], m: Multipliers, tokens: Tensor) -> Tensor:
    def norm(x: Tensor, gain: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + model.norm_eps).sqrt() * gain

    x = weights["embedding"][tokens] * m.embedding
    for i in range(model.depth):
        w = {
            name.split(".")[2]: tensor
            for name, tensor in weights.items()
            if name.startswith(f"layers.{i}.")
        }
        h = norm(x, w["attention_norm"])
        query, key, value = (
            (h @ w[part].T).unflatten(-1, (-1, model.head_size))
            for part in ("query", "key", "value")
        )
        heads = []
        for one in range(model.heads):
            shared = one // (model.heads // model.kv_heads)
            q, k = (_turned(part, model.rope_base) for part in (query[:, one], key[:, shared]))
            scores = q @ k.T * m.attention
            later = torch.ones_like(scores, dtype=torch.bool).triu(1)
            heads.append(scores.masked_fill(later, -torch.inf).softmax(-1) @ value[:, shared])
        x = x + torch.cat(heads, -1) @ w["output"].T * m.residual
        h = norm(x, w["ffn_norm"])
        forward = (
            _experts(model, w, h) if model.experts else _swiglu(h, w["gate"], w["up"], w["down"])
        )
        x = x + forward * m.residual
    return norm(x, weights["norm"])


def _swiglu(h: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (h @ gate.T * (h @ gate.T).sigmoid() * (h @ up.T)) @ down.T


def _experts(model: Model, w: dict[str, Tensor], h: Tensor) -> Tensor:
    """Softmax over all experts, the best few, their shares made to sum to one (paper.md 9.3), a
    token at a time.
    """
    rows = []
    for token in h:
        shares = (w["router"] @ token).softmax(-1)
        best = sorted(range(model.experts), key=lambda e: -float(shares[e]))[
            : model.experts_per_token
        ]
        outs = [shares[e] * _swiglu(token, w["gate"][e], w["up"][e], w["down"][e]) for e in best]
        rows.append(torch.stack(outs).sum(0) / shares[best].sum())
    return torch.stack(rows)


def _turned(x: Tensor, base: float) -> Tensor:
    """RoPE: component j and j + half turn by position * base**(-2j / size)."""
    half = x.shape[-1] // 2
    angle = torch.arange(len(x), dtype=x.dtype)[:, None] * base ** (
        -torch.arange(half, dtype=x.dtype) / half
    )
    first, second = x[:, :half], x[:, half:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
