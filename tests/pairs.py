"""A toy world whose best unmasking policy is known, for tests of trainers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import dllm_env.train.setup as setup_module
from dllm_env.denoisers.base import Denoiser
from dllm_env.tasks.base import Problem, Split
from dllm_env.tasks.load import TASKS

LENGTH = 4


class PairDenoiser(Denoiser):
    """Knows a pair of positions once all pairs before it are written: right with 0.9 then, wrong with 0.9 before.

    Its confidence says which: a pair that is ready shows 0.9, one that is not shows 0.6. So the best policy
    unmasks exactly the two positions of high confidence, and needs two evaluations for four positions.
    """

    name, pad_id, mask_id, eot_id, vocabulary, hidden_size, max_length = "pairs", 0, 1, 2, 5, 2, 16
    device = torch.device("cpu")
    ready_logits = torch.tensor([-9.0, 0.0, -9.0, 2.2, 0.0])
    other_logits = torch.tensor([-9.0, 0.0, -9.0, 0.0, 0.4])

    def features(self, tokens: Tensor, last: int) -> Tensor:
        masked = tokens == self.mask_id
        pair = torch.arange(tokens.shape[1]) - (tokens.shape[1] - LENGTH)
        before = masked.cumsum(1) - masked.int()
        start = torch.where(pair % 2 == 1, before - masked.roll(1, 1).int(), before)
        ready = (start <= 0).float()[:, -last:]
        return torch.stack((ready, 1 - ready), -1)

    def head(self, hidden: Tensor) -> Tensor:
        return torch.where(hidden[..., :1] > 0, self.ready_logits, self.other_logits)

    def encode(self, text: str) -> list[int]:
        return [3]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join("pmeAB"[i] for i in ids)


@dataclass(frozen=True)
class AllA:
    """Right when every position holds A."""

    name: str = "all-a"
    prompt_length: int = 1
    response_length: int = LENGTH

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        return Problem(self.name, split, seed, index, "A", ())

    def score(self, problem: Problem, response: str) -> float:
        return float(response == "A" * LENGTH)


class Never(AllA):
    """Nothing is right."""

    def score(self, problem: Problem, response: str) -> float:
        return 0.0


def enter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the task ``all-a`` and its denoiser known to the trainers."""
    monkeypatch.setitem(TASKS, "all-a", AllA)
    monkeypatch.setattr(setup_module, "load_denoiser", lambda name, device: PairDenoiser())


def weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a run's checkpoint."""
    return load_file(folder / "checkpoint.safetensors")


def assert_same_run(first: Path, second: Path) -> None:
    """Equal checkpoints, and equal policies as ``best`` and ``last``, bit for bit."""
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    for part in ("best", "last"):
        files = [folder / part / "policy.safetensors" for folder in (first, second)]
        assert files[0].read_bytes() == files[1].read_bytes()
