"""The decoder: pre-RMSNorm, RoPE, grouped-query attention, SwiGLU, of one kind or of experts,
tied or untied head; with or without members.

Everything is written on trailing axes. A parameter may carry a leading members axis, (P, out, in)
instead of (out, in): then one model is a population of P same-shaped models in batched kernels,
and activations are (P, tokens, width) instead of (tokens, width). The same code serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from windtunnel.model.attention import causal_attention
from windtunnel.model.init import initial_tensors
from windtunnel.model.loss import token_losses
from windtunnel.model.moe import mixture
from windtunnel.model.roles import multipliers
from windtunnel.model.rope import rope_table, rotate
from windtunnel.model.shape import tensor_shapes
from windtunnel.recipe import Model


class Decoder(nn.Module):
    """One model, or a population of them.

    `model`: one settings object, or a sequence of P of the same shape, which may differ in
    init_std, scale_emb, scale_depth and parametrization. `seed`: one, or P of them. `context`:
    the longest sequence.
    """

    embedding: Tensor
    head: Tensor  # where it is not tied
    norm: Tensor
    rope: Tensor
    embedding_multiplier: Tensor  # each of them (), or (P, 1, 1)
    residual_multiplier: Tensor
    logit_multiplier: Tensor

    def __init__(
        self, model: Model | Sequence[Model], context: int, seed: int | Sequence[int] = 0
    ) -> None:
        super().__init__()
        models = [model] if isinstance(model, Model) else list(model)
        seeds = [seed] if isinstance(seed, int) else list(seed)
        if len({_shared(m) for m in models}) != 1 or len(seeds) != len(models):
            raise ValueError(
                "members must have one shape, one rope_base and norm_eps, and one seed each"
            )
        self.model = models[0]
        self.members = None if isinstance(model, Model) else len(models)
        self.context = context
        self.layers = nn.ModuleList(Layer(self.model) for _ in range(self.model.depth))
        initial = [initial_tensors(m, s) for m, s in zip(models, seeds, strict=True)]
        for name in tensor_shapes(self.model):
            tensors = [member[name] for member in initial]
            self._register(name, tensors[0] if self.members is None else torch.stack(tensors))
        self.register_buffer(
            "rope",
            rope_table(context, self.model.head_size, self.model.rope_base),
            persistent=False,
        )
        constants = [multipliers(m) for m in models]
        self._register_multiplier("embedding_multiplier", [c.embedding for c in constants])
        self._register_multiplier("residual_multiplier", [c.residual for c in constants])
        self._register_multiplier("logit_multiplier", [c.logits for c in constants])
        self._losses: Callable[..., Tensor] = _losses
        self._again = False

    def _register(self, name: str, value: Tensor) -> None:
        module, _, leaf = name.rpartition(".")
        self.get_submodule(module).register_parameter(leaf, nn.Parameter(value))

    def _register_multiplier(self, name: str, values: list[float]) -> None:
        """A tensor, () or (P, 1, 1): compiled code would take a plain number for a constant, and be
        compiled anew for each value of a search.
        """
        column = torch.tensor(values)
        shaped = column[0] if self.members is None else column[:, None, None]
        self.register_buffer(name, shaped, persistent=False)

    @property
    def unembedding(self) -> Tensor:
        """(vocab, width), or (P, vocab, width): the head, or the embedding where they are tied."""
        return self.embedding if self.model.tied else self.head

    def compile_parts(self) -> None:
        """Compile a layer once for all layers, and the loss: the time to compile does not grow
        with the depth.
        """
        for layer in self.layers:
            layer.compile(dynamic=False)
        self._losses = torch.compile(_losses, dynamic=False)

    def recompute_layers(self) -> None:
        """Keep only what enters a layer, and compute the layer again in the backward pass."""
        self._again = True

    def forward(
        self, tokens: Tensor, documents: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """tokens (batch, T), or (P, batch, T) where each member has its own -> what the head
        multiplies to give logits: (batch * T, width), or (P, batch * T, width). `documents` like
        tokens: attention stays within a document.
        """
        x, _ = self._trunk(tokens, documents, cache)
        return rms_norm(x, self.norm, self.model.norm_eps) * self.logit_multiplier

    def logits(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """fp32 logits (batch, T, vocab), or (P, batch, T, vocab)."""
        flat = (self(tokens, cache=cache) @ self.unembedding.mT).float()
        return flat.unflatten(-2, tokens.shape[-2:])

    def losses(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Cross-entropy of every target, nats: (batch * T,), or (P, batch * T). `targets` like
        tokens.
        """
        return self.losses_and_unevenness(tokens, targets, documents)[0]

    def losses_and_unevenness(
        self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The same, and where there are experts the `unevenness` of every window, (batch,), or
        (P, batch), summed over the layers.
        """
        x, unevenness = self._trunk(tokens, documents, None)
        losses = self._losses(
            x,
            self.norm,
            self.model.norm_eps,
            self.logit_multiplier,
            self.unembedding,
            targets.flatten(-2),
        )
        return losses, torch.stack(unevenness).sum(0) if unevenness else None

    def _trunk(
        self, tokens: Tensor, documents: Tensor | None, cache: Cache | None
    ) -> tuple[Tensor, list[Tensor]]:
        """The residual stream behind the last layer, and each layer's unevenness."""
        T, start = tokens.shape[-1], cache.tokens if cache else 0
        table = self.rope[:, start : start + T]
        if documents is not None:
            batch = tokens.shape[-2] * (self.members or 1)
            documents = documents.expand(self.members or 1, *documents.shape[-2:]).reshape(batch, T)
        x, unevenness = self._embed(tokens) * self.embedding_multiplier, []
        for index, layer in enumerate(self.layers):
            through = (
                partial(checkpoint, layer, use_reentrant=False, preserve_rng_state=False)
                if self._again
                else layer
            )
            x, uneven = cast(
                tuple[Tensor, Tensor | None],
                through(x, table, self.residual_multiplier, documents, cache and cache.of(index)),
            )
            if uneven is not None:
                unevenness.append(uneven)
        return x, unevenness

    def _embed(self, tokens: Tensor) -> Tensor:
        if self.members is None:
            return nn.functional.embedding(tokens.flatten(), self.embedding)
        tokens = tokens.expand(self.members, *tokens.shape[-2:])
        first = torch.arange(self.members, device=tokens.device)[:, None] * self.model.vocab
        return nn.functional.embedding(tokens.flatten(1) + first, self.embedding.flatten(0, 1))


class Layer(nn.Module):
    """Attention and SwiGLU, each added to the residual stream. Parameters by the names of
    `shape.tensor_shapes`.
    """

    attention_norm: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    ffn_norm: Tensor
    router: Tensor  # where there are experts
    gate: Tensor
    up: Tensor
    down: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.eps, self.head_size = model.norm_eps, model.head_size
        self.chosen = model.experts_per_token if model.experts else 0
        self.attention_scale = multipliers(model).attention

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        residual: Tensor,
        documents: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """x (tokens, width), or (P, tokens, width); table: RoPE of the T positions; -> like x,
        and the `unevenness` of every window where there are experts.
        """
        x = (
            x
            + self._attend(rms_norm(x, self.attention_norm, self.eps), table, documents, cache)
            * residual
        )
        h = rms_norm(x, self.ffn_norm, self.eps)
        if self.chosen:
            mixed, unevenness = mixture(
                h, self.router, self.gate, self.up, self.down, self.chosen, window=table.shape[1]
            )
            return x + mixed * residual, unevenness
        return x + (
            (nn.functional.silu(h @ self.gate.mT) * (h @ self.up.mT)) @ self.down.mT
        ) * residual, None

    def _attend(
        self, h: Tensor, table: Tensor, documents: Tensor | None, cache: LayerCache | None
    ) -> Tensor:
        def heads(weight: Tensor) -> Tensor:  # (members * batch, heads, T, head_size)
            return (
                (h @ weight.mT)
                .reshape(-1, table.shape[1], weight.shape[-2] // self.head_size, self.head_size)
                .transpose(1, 2)
            )

        query, key, value = heads(self.query), heads(self.key), heads(self.value)
        query, key = rotate(query, table), rotate(key, table)
        if cache is not None:
            key, value = cache.extend(key, value)
        mixed = causal_attention(query, key, value, self.attention_scale, documents)
        return mixed.transpose(1, 2).reshape(*h.shape[:-1], -1) @ self.output.mT


class LayerCache:
    """Keys and values of the tokens that one layer has seen: (batch, kv_heads, tokens, head_size)
    each.
    """

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append new keys and values and return all of them."""
        if self.key is not None and self.value is not None:
            key, value = torch.cat([self.key, key], dim=-2), torch.cat([self.value, value], dim=-2)
        self.key, self.value = key, value
        return key, value


class Cache:
    """What generation remembers: one `LayerCache` a layer."""

    def __init__(self, depth: int) -> None:
        self.layers = [LayerCache() for _ in range(depth)]

    def of(self, layer: int) -> LayerCache:
        return self.layers[layer]

    @property
    def tokens(self) -> int:
        key = self.layers[0].key
        return 0 if key is None else key.shape[-2]


def _shared(model: Model) -> tuple[object, ...]:
    """What all members of a population must have in common."""
    routed = model.experts_per_token if model.experts else 0
    return (
        *tensor_shapes(model).items(),
        model.heads,
        model.kv_heads,
        routed,
        model.rope_base,
        model.norm_eps,
    )


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / rms(x) * gain over the last axis, in fp32. gain: (width,), or (P, width) for x (P,
    tokens, width).
    """
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain[..., None, :]


def _losses(
    x: Tensor, norm: Tensor, eps: float, scale: Tensor, head: Tensor, targets: Tensor
) -> Tensor:
    return token_losses(rms_norm(x, norm, eps) * scale, head, targets)
