"""Initial weights: a pure function of the settings, the seed and the tensor's name."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from windtunnel.model.roles import role_of, rules
from windtunnel.model.shape import tensor_shapes
from windtunnel.recipe import Model


def initial_tensors(model: Model, seed: int) -> dict[str, Tensor]:
    """Every parameter, fp32 on CPU."""
    return {name: initial_tensor(model, name, seed) for name in tensor_shapes(model)}


def initial_tensor(model: Model, name: str, seed: int) -> Tensor:
    """One parameter, fp32 on CPU. Each has a generator of its own, so none depends on another, nor
    on a device.
    """
    rule = rules(model)[role_of(name)]
    return _drawn(name, tensor_shapes(model)[name], seed) * rule.std + rule.mean


def inherited(theirs: Mapping[str, Tensor], name: str, model: Model, seed: int) -> Tensor:
    """A parameter of `model`, which goes on from the weights of another one, and computes what
    that did whatever was changed: feed-forwards became experts, or the head got weights of its own.

    Each expert is a copy of the feed-forward, whatever the routers say; with one expert a token,
    the feed-forward times its probability. The routers are drawn with the plain init_std (paper
    section 7.3: variance 0.01, at a width of 2304), without the table's share of the width. A new
    head begins as the embedding (paper section 7.2).
    """
    shape = tensor_shapes(model)[name]
    if name in theirs:
        return theirs[name].expand(shape)
    if name == "head":
        return theirs["embedding"]
    return _drawn(name, shape, seed) * model.init_std


def _drawn(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(_seed_of(name, seed)))


def _seed_of(name: str, seed: int) -> int:
    # torch takes 63 bits
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()) >> 1
