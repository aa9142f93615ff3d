"""What the published layouts call the tensors, and how theirs are cut out of ours.

The matrices of experts are one tensor each here, (experts, out, in). The hf layout keeps them so,
with the rows of gate and up in one; minicpm has a tensor for every expert. No tensor is permuted
in any layout.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from windtunnel.model.shape import tensor_shapes
from windtunnel.recipe import Model
from windtunnel.ship.layouts import Layout

# Ours -> theirs. Two of ours with one name are its rows, in the order of `tensor_shapes`; `*`:
# one tensor an expert.
_TENSORS = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_EXPERTS: dict[Layout, dict[str, str]] = {
    "hf": {
        "router": "block_sparse_moe.router.layer",
        "gate": "block_sparse_moe.input_linear",
        "up": "block_sparse_moe.input_linear",
        "down": "block_sparse_moe.output_linear",
    },
    "minicpm": {
        "router": "mlp.gate",
        "gate": "mlp.experts.*.w1",
        "up": "mlp.experts.*.w3",
        "down": "mlp.experts.*.w2",
    },
}


@dataclass(frozen=True)
class Part:
    """One of our tensors, or one expert's matrix of it."""

    name: str
    expert: int | None = None

    def of(self, weights: Mapping[str, Tensor]) -> Tensor:
        return weights[self.name] if self.expert is None else weights[self.name][self.expert]


@dataclass(frozen=True)
class PublishedTensor:
    """What one published tensor is: parts of ours, the rows of one below those of the other, and
    its shape.
    """

    parts: tuple[Part, ...]
    shape: tuple[int, ...]

    def join(self, weights: Mapping[str, Tensor]) -> Tensor:
        """It, out of our tensors."""
        parts = [part.of(weights) for part in self.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)

    def cut(self, tensor: Tensor) -> dict[Part, Tensor]:
        """Its parts, the reverse of `join`."""
        if len(self.parts) == 1:
            return {self.parts[0]: tensor}
        rows = tensor.chunk(len(self.parts), dim=-2)
        return {part: some.contiguous() for part, some in zip(self.parts, rows, strict=True)}


def published_tensors(layout: Layout, model: Model) -> dict[str, PublishedTensor]:
    """Every tensor of a checkpoint in this layout by its name there, as
    `model.layers.3.self_attn.q_proj.weight`.
    """
    names = _TENSORS | (_EXPERTS[layout] if model.experts else {})
    found: dict[str, PublishedTensor] = {}
    for name, shape in tensor_shapes(model).items():
        *layer, leaf = name.split(".")
        theirs = ".".join([*(["model", *layer] if layer else []), names[leaf], "weight"])
        if "*" in theirs:
            each = {
                theirs.replace("*", str(e)): PublishedTensor((Part(name, e),), shape[1:])
                for e in range(model.experts)
            }
        elif theirs in found:
            first = found[theirs]
            rows = first.shape[-2] + shape[-2]
            each = {
                theirs: PublishedTensor((*first.parts, Part(name)), (*shape[:-2], rows, shape[-1]))
            }
        else:
            each = {theirs: PublishedTensor((Part(name),), shape)}
        found |= each
    return found


def our_tensors(parts: dict[Part, Tensor], model: Model) -> dict[str, Tensor]:
    """Our tensors, out of the parts of all published ones, which are used up."""

    def whole(name: str) -> Tensor:
        if Part(name) in parts:
            return parts.pop(Part(name))
        return torch.stack([parts.pop(Part(name, expert)) for expert in range(model.experts)])

    return {name: whole(name) for name in tensor_shapes(model)}
