"""Work replayed on a GPU as one CUDA graph: a small model's kernels take less time than Python needs to launch them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_WARM_UP = 3  # calls that are carried out before one is captured: they compile, allocate and tune what there is


class Replayed:
    """`function(tensor, setting)` -> tensor, which may also change tensors in place; where the device is no GPU, just
    that function.

    It may not wait for the device, nor use anything that changes from call to call but its tensor and what stands on
    the device. A graph is kept for each shape of the tensor and each setting.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self._function, self._device = function, device
        self._graphs: dict[tuple[object, ...], _Graph | int] = {}

    def __call__(self, tensor: Tensor, *setting: float) -> Tensor:
        if self._device.type != "cuda":
            return self._function(tensor, *setting)
        key = (tensor.shape, *setting)
        kept = self._graphs.setdefault(key, 0)
        if isinstance(kept, int) and kept < _WARM_UP:
            self._graphs[key] = kept + 1
            return _beside(lambda: self._function(tensor, *setting))
        if isinstance(kept, int):
            kept = self._graphs[key] = _capture(lambda held: self._function(held, *setting), tensor)
        return kept.replay(tensor)


@dataclass(frozen=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    given: Tensor
    result: Tensor

    def replay(self, tensor: Tensor) -> Tensor:
        self.given.copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.result.clone()  # the next replay writes into it


def _capture(function: Callable[[Tensor], Tensor], tensor: Tensor) -> _Graph:
    """Records without carrying anything out."""
    graph, given = torch.cuda.CUDAGraph(), tensor.clone()
    with torch.cuda.graph(graph):
        result = function(given)
    return _Graph(graph, given, result)


def _beside(function: Callable[[], Tensor]) -> Tensor:
    """On a stream of its own, as a capture will be: autograd's nodes remember the stream that they were made on."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = function()
    torch.cuda.current_stream().wait_stream(stream)
    return result
