"""Bytes of a GPU's tensors that are alive, of fake ones too. Nothing is measured here: run as a
script, it does nothing.
"""

import weakref
from typing import Any

import torch
from torch.utils._pytree import tree_leaves


class Held:
    """The bytes of distinct storages `now`, and the most so far."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._known: set[int] = set()

    def keep(self, tree: Any) -> None:
        """Take up the tensors of a tree, until they go."""
        for leaf in tree_leaves(tree):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "cuda":
                self._keep(leaf.untyped_storage())

    def _keep(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._known:
            return
        self._known.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, place, size)

    def _gone(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size
