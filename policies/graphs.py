"""CUDA graphs: what a learned policy computes in a step is told to a GPU once, and then asked for as one.

A small network and its head are some hundred operations that take a GPU a few microseconds each, less than the host
takes to ask for them. A graph records them; replaying it is one request. It reads and writes memory of its own, so
what goes in is copied there, and what comes out is copied from there. Recorded is one graph for each number of
rows that is a power of two, with rows to spare, which nobody reads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dllm_env.numerics import constants_anew

MOST = 32
"""Graphs that are kept; the one that was not asked for the longest time goes first."""
LARGEST = 2**24
"""Numbers that go in at most. A step that reads more keeps the GPU busy by itself, and would be copied."""

OfRows = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""From tensors with B rows to tensors with B rows, each from its own; the host looks at no values on the way."""


class Recorded(NamedTuple):
    """A function that was recorded with these tensors.

    Attributes:
        given: what it reads, with rows to spare.
        found: what it writes.
        replay: makes it read and write.
    """

    given: list[Tensor]
    found: list[Tensor]
    replay: Callable[[], None]


class Graphs:
    """Functions that a GPU has recorded, by shapes. A copy of this begins with none."""

    def __init__(self) -> None:
        self._recorded: OrderedDict[Hashable, Recorded] = OrderedDict()
        self._in_use = threading.Lock()

    def __deepcopy__(self, memo: object) -> Graphs:
        return Graphs()

    def __reduce__(self) -> tuple[type[Graphs], tuple[()]]:
        return Graphs, ()

    def __call__(
        self, key: Hashable, weights: Iterable[Tensor], function: OfRows, given: Sequence[Tensor]
    ) -> list[Tensor]:
        """What the function makes of the tensors.

        Args:
            key: which function this is.
            weights: what it reads besides, as it is at each call; a graph belongs to the memory where they stand.
            function: what to do.
            given: tensors with B rows each, on one GPU.
        """
        rows = len(given[0])
        size = 1 << (rows - 1).bit_length()
        places = tuple(weight.data_ptr() for weight in weights)
        kinds = tuple((tensor.shape[1:], tensor.dtype) for tensor in given)
        known = (key, size, stream(given[0].device), places, kinds)
        with self._in_use:
            recorded = self._recorded.pop(known, None) or record(function, given, size)
            self._recorded[known] = recorded
            while len(self._recorded) > MOST:
                self._recorded.popitem(last=False)
            torch._foreach_copy_([tensor[:rows] for tensor in recorded.given], list(given))
            recorded.replay()
            return [tensor[:rows].clone() for tensor in recorded.found]


def stream(device: torch.device) -> Hashable:
    """In whose order the device does what is asked for now."""
    return device, torch.cuda.current_stream(device).cuda_stream


def records(given: Sequence[Tensor]) -> bool:
    """Whether these are on a GPU, and so few numbers that the host's requests are what takes time.

    Not where somebody else records just now, nor under autocast, whose casts of weights do not outlive it.
    """
    if not given[0].is_cuda or torch.is_autocast_enabled("cuda") or torch.cuda.is_current_stream_capturing():
        return False
    return len(given[0]) > 0 and sum(tensor.numel() for tensor in given) <= LARGEST


def record(function: OfRows, given: Sequence[Tensor], size: int) -> Recorded:
    """Records the function for so many rows, of which those that are there are the given ones."""
    device, graph = given[0].device, torch.cuda.CUDAGraph()
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(device):
        read = [tensor.new_zeros((size, *tensor.shape[1:])) for tensor in given]
        torch._foreach_copy_([tensor[: len(given[0])] for tensor in read], list(given))
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):  # libraries make what they need in a first call
            function(read)
        torch.cuda.current_stream().wait_stream(beside)
        with constants_anew(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            found = list(function(read))
    return Recorded(read, found, graph.replay)
