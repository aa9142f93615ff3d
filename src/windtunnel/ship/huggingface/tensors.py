"""What an architecture calls the tensors, and how its tensors are cut out of ours.

Here the matrices of a layer's experts are one tensor, (experts, out, in). GraniteMoe keeps them
so, with the rows of gate and up in one tensor; MiniCPM has a tensor for every expert. No tensor is
permuted in any architecture.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from windtunnel.model.shape import tensor_shapes
from windtunnel.recipe import Model
from windtunnel.ship.huggingface.architectures import Architecture


@dataclass(frozen=True)
class Part:
    """One of our tensors, or one expert's matrix of it."""

    name: str
    expert: int | None = None

    def of(self, weights: Mapping[str, Tensor]) -> Tensor:
        """This part, out of our tensors."""
        return weights[self.name] if self.expert is None else weights[self.name][self.expert]


@dataclass(frozen=True)
class PublishedTensor:
    """One published tensor: the parts of ours that it holds, their rows below each other, and its
    shape.
    """

    parts: tuple[Part, ...]
    shape: tuple[int, ...]

    def join(self, weights: Mapping[str, Tensor]) -> Tensor:
        """It, out of our tensors."""
        parts = [part.of(weights) for part in self.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)

    def cut(self, tensor: Tensor) -> dict[Part, Tensor]:
        """Its parts: the reverse of `join`."""
        if len(self.parts) == 1:
            return {self.parts[0]: tensor}
        rows = tensor.chunk(len(self.parts), dim=-2)
        return {part: some.contiguous() for part, some in zip(self.parts, rows, strict=True)}


def published_tensors(architecture: Architecture, model: Model) -> dict[str, PublishedTensor]:
    """Every tensor of a checkpoint by its name there, such as
    `model.layers.3.self_attn.q_proj.weight`.
    """
    names = {**architecture.tensors, **(architecture.expert_tensors if model.experts else {})}
    found: dict[str, PublishedTensor] = {}
    for name, shape in tensor_shapes(model).items():
        *layer, leaf = name.split(".")
        prefix = f"model.{'.'.join(layer)}." if layer else ""
        theirs = f"{prefix}{names[leaf]}.weight"
        # an expert's matrix is a tensor of its own: (out, in) out of (experts, out, in)
        if "*" in theirs:
            for expert in range(model.experts):
                its = PublishedTensor((Part(name, expert),), shape[1:])
                found[theirs.replace("*", str(expert))] = its
        elif theirs in found:
            # the rows of both in one tensor: (..., out + out, in)
            first = found[theirs]
            *outer, rows, columns = first.shape
            both = (*outer, rows + shape[-2], columns)
            found[theirs] = PublishedTensor((*first.parts, Part(name)), both)
        else:
            found[theirs] = PublishedTensor((Part(name),), shape)
    return found


def our_tensors(parts: dict[Part, Tensor], model: Model) -> dict[str, Tensor]:
    """Our tensors, out of the parts of all published ones. Removes the parts as it goes, so that
    no tensor is held twice.
    """

    def whole(name: str) -> Tensor:
        if Part(name) in parts:
            return parts.pop(Part(name))
        return torch.stack([parts.pop(Part(name, expert)) for expert in range(model.experts)])

    return {name: whole(name) for name in tensor_shapes(model)}
