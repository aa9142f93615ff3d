"""Work replayed on a GPU as one CUDA graph: a small model's kernels take less time than Python
needs to launch them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# calls that are carried out before one is captured: they compile, allocate and tune what there is
_WARM_UP = 3


class Replayed:
    """`function(tensors)` -> tensor, which may also change tensors in place; where the device is
    no GPU, just that function.

    It may not wait for the device, nor use anything that changes from call to call but what it is
    given and what stands on the device. A graph is kept for each shape of what it is given.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self._function, self._device = function, device
        self._graphs: dict[tuple[torch.Size, ...], _Graph | int] = {}

    def __call__(self, *tensors: Tensor) -> Tensor:
        if self._device.type != "cuda":
            return self._function(*tensors)
        key = tuple(tensor.shape for tensor in tensors)
        kept = self._graphs.setdefault(key, 0)
        if isinstance(kept, int) and kept < _WARM_UP:
            self._graphs[key] = kept + 1
            return _beside(lambda: self._function(*tensors))
        if isinstance(kept, int):
            kept = self._graphs[key] = _capture(self._function, tensors)
        return kept.replay(tensors)


@dataclass(frozen=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    given: tuple[Tensor, ...]
    result: Tensor

    def replay(self, tensors: tuple[Tensor, ...]) -> Tensor:
        for held, tensor in zip(self.given, tensors, strict=True):
            held.copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.result.clone()  # the next replay writes into it


def _capture(function: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> _Graph:
    """Records without carrying anything out."""
    graph, given = torch.cuda.CUDAGraph(), tuple(tensor.clone() for tensor in tensors)
    with torch.cuda.graph(graph):
        result = function(*given)
    return _Graph(graph, given, result)


def _beside(function: Callable[[], Tensor]) -> Tensor:
    """On a stream of its own, as a capture will be: autograd's nodes remember the stream that
    they were made on.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = function()
    torch.cuda.current_stream().wait_stream(stream)
    return result
