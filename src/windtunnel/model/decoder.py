"""The decoder: pre-RMSNorm, RoPE, grouped-query attention, SwiGLU or a mixture of them, tied or
untied head; with or without members. With E the embedding, s the multipliers of the
parametrization (`roles.multipliers`), and each layer's a = attention and f = feed-forward:

    x = s_embedding E[tokens]
    x = x + s_residual a(norm(x))        of every layer
    x = x + s_residual f(norm(x))
    logits = head (s_logits norm(x))

Everything is written on trailing axes. A parameter may carry a leading members axis, (P, out, in)
instead of (out, in): then one model is a population of P same-shaped models in batched kernels,
and activations are (P, tokens, width) instead of (tokens, width). The same code serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from windtunnel.model.attention import Borders, causal_attention, marked_borders
from windtunnel.model.copies import adding_to
from windtunnel.model.fp8 import Fp8Copy, fp8_product
from windtunnel.model.init import initial_tensors
from windtunnel.model.loss import AS_WRITTEN, fits_at_once, token_losses
from windtunnel.model.moe import mixture
from windtunnel.model.roles import multipliers
from windtunnel.model.rope import rope_table, rotate, rotate_as_projected
from windtunnel.model.shape import tensor_shapes
from windtunnel.recipe import ROPE_SCALINGS, Model

# Of a layer, what products take in 16 bits where the precision is bf16.
_OF_ATTENTION = ("query", "key", "value", "output")
_MATRICES = (*_OF_ATTENTION, "gate", "up", "down")
_ROOM = 64  # tokens for which a cache has room at least, when it is made anew
# Of a model's settings, what members of a population may have each for itself.
_OWN = {
    "init_std",
    "scale_emb",
    "scale_depth",
    "parametrization",
    "base_width",
    "base_depth",
    "embedding_as",
}


class Decoder(nn.Module):
    """One model, or a population of them."""

    # of a population each has a P before; but for rope, which all share
    embedding: Tensor  # (vocab, width)
    head: Tensor  # (vocab, width), where it is not tied
    norm: Tensor  # (width,)
    rope: Tensor  # (2, context, head_size / 2), of a sequence of `context` tokens
    embedding_multiplier: Tensor  # (), or (P, 1, 1), as the other two
    residual_multiplier: Tensor
    logit_multiplier: Tensor

    def __init__(
        self, model: Model | Sequence[Model], context: int, seed: int | Sequence[int] | None = 0
    ) -> None:
        """`model`: one shape, or a sequence of P that are alike but for init_std, scale_emb,
        scale_depth and parametrization. `seed`: one, or P of them; None: parameters without
        numbers, which take no memory until they are given some. `context`: tokens of the longest
        sequence. Raises ValueError for members that can't be computed together.
        """
        super().__init__()
        models = [model] if isinstance(model, Model) else list(model)
        seeds = [seed] * len(models) if isinstance(seed, int | None) else list(seed)
        if len({shared_by_members(m) for m in models}) != 1 or len(seeds) != len(models):
            raise ValueError(
                "members must have one shape, one RoPE and norm_eps, and one seed each"
            )
        self.model = models[0]
        self.members = None if isinstance(model, Model) else len(models)
        self.context = context
        self.layers = nn.ModuleList(Layer(self.model) for _ in range(self.model.depth))
        initial = [_initial(m, s) for m, s in zip(models, seeds, strict=True)]
        for name in tensor_shapes(self.model):
            tensors = [member[name] for member in initial]
            self._register(name, tensors[0] if self.members is None else torch.stack(tensors))
        rope = rope_table(self.model, 0, context, length=context)
        # it follows from the shape, so no checkpoint holds it
        self.register_buffer("rope", rope, persistent=False)
        constants = [multipliers(m) for m in models]
        self._register_multiplier("embedding_multiplier", [c.embedding for c in constants])
        self._register_multiplier("residual_multiplier", [c.residual for c in constants])
        self._register_multiplier("logit_multiplier", [c.logits for c in constants])
        self.copies: dict[str, Tensor] = {}
        self._head_loss = _HeadLoss()
        self._compiled = False
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

    def copy_matrices(self, dtype: torch.dtype) -> None:
        """Have products take copies of the matrices in `dtype`, or in 8 bits, as `renew_copies`
        makes them: cast once, where autocast would cast each for every part of a batch. Their
        derivatives are added as they come to the gradients of the matrices, without a pass that
        casts them.
        """
        for part, names in self._products():
            part.copies = {}
            for name in names:
                matrix = part.get_parameter(name)
                if isinstance(part, Layer) and name in part.narrow and self.members is None:
                    part.narrow_copies[name] = Fp8Copy.of(matrix)
                else:
                    part.copies[name] = adding_to(matrix, matrix.to(dtype, copy=True))

    def renew_copies(self) -> None:
        """Copy the matrices, as they are now, where products take copies."""
        with torch.no_grad():
            for part, _ in self._products():
                for name, copy in part.copies.items():
                    copy.copy_(part.get_parameter(name))
                if isinstance(part, Layer):
                    for narrow in part.narrow_copies.values():
                        narrow.renew()

    def _products(self) -> Iterator[tuple[Decoder | Layer, Sequence[str]]]:
        """The matrices that products take in 16 bits, and whose they are. The router's is fp32."""
        yield self, ["embedding" if self.model.tied else "head"]
        for layer in self.layers:
            assert isinstance(layer, Layer)
            yield layer, _MATRICES

    def compile_parts(self) -> None:
        """Compile a layer once for all of them, and the loss: so the time to compile does not
        grow with the depth.
        """
        through = torch.compile(Layer.through, dynamic=False)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.kernels = through
        self._head_loss = _HeadLoss(compiled=True)
        self._compiled = True

    def narrow_products(self) -> None:
        """Have products with the matrices of layers, but for those of experts, take 8 bits."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.narrow = frozenset(_OF_ATTENTION if layer.chosen else _MATRICES)

    def recompute_layers(self) -> None:
        """Keep only what enters a layer, and compute the layer again in the backward pass."""
        self._again = True

    def forward(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """What the head makes logits of: tokens (batch, T), or (P, batch, T) where each member has
        its own -> (batch * T, width), or (P, batch * T, width).

        `documents`, like tokens, numbers the document of each: attention stays within one. `cache`
        holds what was seen before these tokens, and takes them in; `documents` then numbers what it
        holds as well. `positions`, (batch, T): where each token stands in its own text, for rows
        whose beginnings in the cache are of different lengths.
        """
        x, _ = self._trunk(tokens, documents, cache, positions)
        return rms_norm(x, self.norm, self.model.norm_eps) * self.logit_multiplier

    def logits(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """tokens as in `forward` -> fp32 logits (batch, T, vocab), or (P, batch, T, vocab)."""
        flat = (self(tokens, cache=cache) @ self.unembedding.mT).float()
        return flat.unflatten(-2, tokens.shape[-2:])

    def losses(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Cross-entropy of every target, nats: targets like tokens -> (batch * T,), or
        (P, batch * T).
        """
        return self.losses_and_unevenness(tokens, targets, documents)[0]

    def losses_and_unevenness(
        self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The losses, and where there are experts the `unevenness` of every window, (batch,), or
        (P, batch), summed over the layers.
        """
        x, unevenness = self._trunk(tokens, documents, None)
        losses = self._computed(
            self._head_loss,
            x,
            self.norm,
            self.model.norm_eps,
            self.logit_multiplier,
            next(iter(self.copies.values()), self.unembedding),
            targets.flatten(-2),
        )
        return losses, torch.stack(unevenness).sum(0) if unevenness else None

    def _trunk(
        self,
        tokens: Tensor,
        documents: Tensor | None,
        cache: Cache | None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """The residual stream behind the last layer, and each layer's unevenness."""
        T, start = tokens.shape[-1], cache.tokens if cache else 0
        if positions is None:
            table = self._angles(start, start + T)
        else:
            longest = self.context
            if ROPE_SCALINGS[self.model.rope_scaling].by_length:
                longest = int(positions.max()) + 1
            table = self._angles(0, longest)[:, positions][:, :, None]  # alike for all heads
        borders = None
        if documents is not None:  # (members * batch, S): in attention all windows are alike
            members, S = self.members or 1, documents.shape[-1]
            numbers = documents.expand(members, *documents.shape[-2:]).reshape(-1, S)
            borders = marked_borders(numbers, seen=S - T)
        x, unevenness = self._embed(tokens) * self.embedding_multiplier, []
        for index, layer in enumerate(self.layers):
            seen = cache and cache.of(index)
            x, uneven = self._through(layer, x, table, self.residual_multiplier, borders, seen)
            if uneven is not None:
                unevenness.append(uneven)
        return x, unevenness

    def _angles(self, start: int, end: int) -> Tensor:
        """RoPE of the positions from `start` to `end`, of a sequence that ends there. Keys that a
        cache holds stay as they were rotated, as in other engines, where a scaling goes by the
        length.
        """
        if not ROPE_SCALINGS[self.model.rope_scaling].by_length or end == self.context:
            return self.rope[:, start:end]
        return rope_table(self.model, start, end, length=end).to(self.rope.device)

    def _through(
        self, layer: nn.Module, x: Tensor, *inputs: object
    ) -> tuple[Tensor, Tensor | None]:
        if torch.is_grad_enabled() and self._again:
            # nothing in a layer is random, so no state of a generator needs keeping
            return checkpoint(layer, x, *inputs, use_reentrant=False, preserve_rng_state=False)
        return self._computed(layer, x, *inputs)

    def _computed(self, part: Callable[..., Any], x: Tensor, *inputs: object) -> Any:
        """A part of the model. Where no gradients are wanted, compiled parts are computed by the
        kernels of training all the same, since others would have to be compiled; what these keep
        for a backward pass goes with the part.
        """
        if torch.is_grad_enabled() or not self._compiled:
            return part(x, *inputs)
        with torch.enable_grad():
            given = part(x.requires_grad_(), *inputs)
        return tree_map(lambda output: None if output is None else output.detach(), given)

    def _embed(self, tokens: Tensor) -> Tensor:
        """(batch * T, width), or (P, batch * T, width)."""
        if self.members is None:
            return nn.functional.embedding(tokens.flatten(), self.embedding)
        # one look-up for all: the rows of member p begin at p * vocab
        tokens = tokens.expand(self.members, *tokens.shape[-2:])
        first = torch.arange(self.members, device=tokens.device)[:, None] * self.model.vocab
        return nn.functional.embedding(tokens.flatten(1) + first, self.embedding.flatten(0, 1))


def _initial(model: Model, seed: int | None) -> Mapping[str, Tensor]:
    """Every parameter; without a seed, its shape alone."""
    if seed is not None:
        return initial_tensors(model, seed)
    shapes = tensor_shapes(model)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


class Layer(nn.Module):
    """Attention and a feed-forward, each added to the residual stream. Names and shapes of the
    parameters are those of `shape.tensor_shapes`.
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
        self.copies: dict[str, Tensor] = {}
        # of the matrices whose products take 8 bits, their names, and where they are made once a
        # step, their copies
        self.narrow: frozenset[str] = frozenset()
        self.narrow_copies: dict[str, Fp8Copy] = {}
        # a plain function, which does not hold the layer: nothing keeps an old model alive
        self.kernels: Callable[..., tuple[Tensor, Tensor | None]] = Layer.through

    def forward(self, *inputs: object) -> tuple[Tensor, Tensor | None]:
        """As `through`, by the kernels that it was compiled to."""
        return self.kernels(self, *inputs)

    def through(
        self,
        x: Tensor,
        table: Tensor,
        residual: Tensor,
        documents: Borders | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The residual stream x, (tokens, width), or (P, tokens, width), after this layer, and the
        `unevenness` of every window where there are experts.

        `table`: RoPE of the window's T positions, or of each row's, (2, batch, 1, T, half a head);
        `residual`: the multiplier of what is added, (), or (P, 1, 1); `documents`: (members *
        batch, T), or with what the cache holds before them.
        """
        h = rms_norm(x, self.attention_norm, self.eps)
        x = x + self._attend(h, table, documents, cache) * residual
        h = rms_norm(x, self.ffn_norm, self.eps)
        added, unevenness = self._feed_forward(h, window=table.shape[-2])
        return x + added * residual, unevenness

    def _matrix(self, name: str) -> Tensor:
        """As products take it."""
        copy = self.copies.get(name)
        return getattr(self, name) if copy is None else copy

    def _product(self, h: Tensor, name: str) -> Tensor:
        """h, (tokens, in), or (P, tokens, in), times the matrix of this name, turned."""
        if name in self.narrow:
            return fp8_product(h, self.narrow_copies.get(name) or self._matrix(name))
        return h @ self._matrix(name).mT

    def _feed_forward(self, h: Tensor, window: int) -> tuple[Tensor, Tensor | None]:
        """SwiGLU (Shazeer 2020): down (silu(gate h) * up h), by experts where there are any."""
        if self.chosen:
            gate, up, down = self._matrix("gate"), self._matrix("up"), self._matrix("down")
            return mixture(h, self.router, gate, up, down, self.chosen, window)
        gated = nn.functional.silu(self._product(h, "gate")) * self._product(h, "up")
        return self._product(gated, "down"), None

    def _attend(
        self, h: Tensor, table: Tensor, documents: Borders | None, cache: LayerCache | None
    ) -> Tensor:
        def heads(name: str) -> Tensor:  # (members * batch, heads, T, head_size)
            projected = self._product(h, name)
            count = projected.shape[-1] // self.head_size
            apart = projected.reshape(-1, table.shape[-2], count, self.head_size)
            return apart.transpose(1, 2)

        query, key, value = heads("query"), heads("key"), heads("value")
        # scores then depend on the distance of two positions alone; keys are cached as rotated,
        # since a position never changes
        turn = rotate_as_projected if h.device.type == "cuda" else rotate
        query, key = turn(query, table), turn(key, table)
        if cache is not None:
            key, value = cache.extend(key, value)
        mixed = causal_attention(query, key, value, self.attention_scale, documents)
        # (members * batch, heads, T, head_size) -> (tokens, heads * head_size), or with a P before
        return self._product(mixed.transpose(1, 2).reshape(*h.shape[:-1], -1), "output")


class LayerCache:
    """Keys and values of the tokens that one layer has seen, (batch, kv_heads, tokens, head_size)
    each. They lie in tensors with room for more, which are made anew when they are full: a token
    that comes alone is written, and nothing before it is copied.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._key: Tensor | None = None
        self._value: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append new keys and values and return all of them."""
        if self._key is None or self._value is None:
            self._key, self._value, self.tokens = key, value, key.shape[-2]
            return key, value
        seen, self.tokens = self.tokens, self.tokens + key.shape[-2]
        self._key = _written(self._key, key, seen)
        self._value = _written(self._value, value, seen)
        return self._key[..., : self.tokens, :], self._value[..., : self.tokens, :]

    def rows(self, which: Tensor) -> LayerCache:
        """A cache of its own with these rows of the batch."""
        chosen = LayerCache()
        chosen.tokens = self.tokens
        if self._key is not None and self._value is not None:
            chosen._key = self._key[:, :, : self.tokens][which]
            chosen._value = self._value[:, :, : self.tokens][which]
        return chosen


def _written(held: Tensor, new: Tensor, seen: int) -> Tensor:
    """`held`, or where it has no room a larger one, with `new` behind the first `seen` tokens."""
    end = seen + new.shape[-2]
    if held.shape[-2] < end:
        larger = held.new_empty(*held.shape[:-2], end + max(_ROOM, end // 4), held.shape[-1])
        larger[..., :seen, :] = held[..., :seen, :]
        held = larger
    held[..., seen:end, :] = new
    return held


class Cache:
    """What generation remembers: one `LayerCache` a layer."""

    def __init__(self, depth: int) -> None:
        self.layers = [LayerCache() for _ in range(depth)]

    def of(self, layer: int) -> LayerCache:
        """That of one layer, counted from 0."""
        return self.layers[layer]

    @property
    def tokens(self) -> int:
        """How many have been seen, padding counted."""
        return self.layers[0].tokens

    def rows(self, which: Tensor) -> Cache:
        """A cache of its own with these rows of the batch, in this order; a row may be named more
        than once: what several texts begin with is then computed once for all of them.
        """
        chosen = Cache(0)
        chosen.layers = [layer.rows(which) for layer in self.layers]
        return chosen


def shared_by_members(model: Model) -> tuple[object, ...]:
    """What all members of a population must have in common: whatever is a plain number in the
    kernels, and no tensor with one number a member.
    """
    return (*model.model_dump(exclude=_OWN).items(), multipliers(model).attention)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * gain over the last axis, in fp32 (Zhang and Sennrich 2019).
    gain: (width,), or (P, width) for x (P, tokens, width).
    """
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain[..., None, :]


class _HeadLoss:
    """From the residual stream to the losses of the targets, by functions as they are written, or
    compiled.
    """

    def __init__(self, compiled: bool = False) -> None:
        self._all, self._normed, self._kernels = _losses, _normed, AS_WRITTEN
        if compiled:
            self._all = torch.compile(_losses, dynamic=False)
            self._normed = torch.compile(_normed, dynamic=False)
            self._kernels = AS_WRITTEN.compiled()

    def __call__(
        self, x: Tensor, norm: Tensor, eps: float, scale: Tensor, head: Tensor, targets: Tensor
    ) -> Tensor:
        if fits_at_once(x, head):
            return self._all(x, norm, eps, scale, head, targets)
        # in pieces: as one graph, all chunks' logits would be kept
        return token_losses(self._normed(x, norm, eps, scale), head, targets, self._kernels)


def _losses(
    x: Tensor, norm: Tensor, eps: float, scale: Tensor, head: Tensor, targets: Tensor
) -> Tensor:
    return token_losses(_normed(x, norm, eps, scale), head, targets)


def _normed(x: Tensor, norm: Tensor, eps: float, scale: Tensor) -> Tensor:
    return rms_norm(x, norm, eps) * scale
