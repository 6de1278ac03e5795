"""What a GPU records of a learned policy, with a recorder for processors; the real one is in ``test_cuda``."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from dllm_env.denoisers.load import load_denoiser
from dllm_env.numerics import constants_anew, counted
from dllm_env.policies import graphs, learned
from dllm_env.policies.graphs import MOST, Graphs, OfRows, Recorded
from dllm_env.policies.heads import load_head
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import ConfidenceTransformer, NetworkConfig
from dllm_env.policies.rollout import rollout, row_seeds
from dllm_env.random import torch_generator
from dllm_env.rules import Rules
from dllm_env.tasks.load import load_task


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records as a GPU does, rows to spare included; the sizes of what was recorded."""
    sizes: list[int] = []

    def record(function: OfRows, given: Sequence[Tensor], size: int) -> Recorded:
        sizes.append(size)
        read = [tensor.new_zeros((size, *tensor.shape[1:])) for tensor in given]
        found = [torch.empty_like(tensor) for tensor in function(read)]

        def replay() -> None:
            torch._foreach_copy_(found, list(function(read)))

        return Recorded(read, found, replay)

    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(graphs, "stream", lambda device: device)
    monkeypatch.setattr(learned, "records", lambda given: True)
    return sizes


def policy(head: str, greedy: bool = False, **settings: object) -> LearnedPolicy:
    config = NetworkConfig(width=16, bias=-1.0, sight=("place", "left", "nines"), **settings)  # type: ignore[arg-type]
    network = ConfidenceTransformer(config, torch_generator(3)).eval()
    torch.nn.init.normal_(network.modulation.weight, 0, 0.3, generator=torch_generator(4))
    return LearnedPolicy(network, load_head(head), greedy=greedy, alpha=0.3 if config.conditions else None)


@pytest.mark.parametrize("head", ["bernoulli:force_progress=true", "plackett_luce:k=3", "dynamic_plackett_luce"])
@pytest.mark.parametrize("greedy", [False, True])
def test_a_recorded_policy_plays_as_it_does_otherwise(
    head: str, greedy: bool, recorded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser, task = load_denoiser("tiny"), load_task("trace")
    prompts = [denoiser.encode(task.problem(index, "test").prompt) for index in range(7)]
    played = []
    for by_graph in (True, False):
        monkeypatch.setattr(learned, "records", lambda given, by_graph=by_graph: by_graph)
        plays = policy(head, greedy, conditions=("preference",))
        rules = Rules(40, 8)
        played.append(rollout(denoiser, plays, rules, prompts, row_seeds(7, "x"), batch_size=5, record=not greedy))
    with_graphs, without = played
    assert 8 in recorded
    assert set(recorded) <= {1, 2, 4, 8}
    assert len(recorded) <= 4 * (2 - greedy)  # what is drawn, and its probability
    assert torch.equal(with_graphs.responses, without.responses)
    assert torch.equal(with_graphs.revealed_at, without.revealed_at)
    if not greedy:
        both = with_graphs.trajectories, without.trajectories
        for name in ("draw", "log_prob", "entropy"):
            first, second = (getattr(one, name) for one in both)
            assert torch.equal(first, second), name


def double(given: Sequence[Tensor]) -> Sequence[Tensor]:
    return [2 * given[0]]


def test_a_shape_is_recorded_once_and_what_comes_out_stays(recorded: list[int]) -> None:
    made = Graphs()
    first = made("double", (), double, [torch.arange(3.0)])[0]
    second = made("double", (), double, [torch.arange(4.0) + 1])[0]
    assert first.tolist() == [0, 2, 4]
    assert second.tolist() == [2, 4, 6, 8]
    assert recorded == [4]
    made("double", (), double, [torch.arange(4)])  # of another type
    made("double", (), double, [torch.ones(4, 2)])  # of another width
    made("twice", (), double, [torch.arange(4.0)])  # another function
    made("double", (torch.ones(2),), double, [torch.arange(4.0)])  # other weights
    assert recorded == [4] * 5
    assert made("double", (), double, [torch.ones(1, 2)])[0].tolist() == [[2, 2]]
    assert recorded == [4] * 5 + [1]


def test_few_graphs_are_kept(recorded: list[int]) -> None:
    made = Graphs()
    for number in range(MOST + 1):
        made(number, (), double, [torch.ones(2)])
        made(0, (), double, [torch.ones(2)])  # which is asked for all the time
    assert len(recorded) == MOST + 1
    made(1, (), double, [torch.ones(2)])
    assert len(recorded) == MOST + 2


def test_copies_begin_with_no_graphs(recorded: list[int]) -> None:
    plays = policy("dynamic_plackett_luce")
    denoiser = load_denoiser("tiny")
    prompt = denoiser.encode(load_task("trace").problem(0, "test").prompt)
    for one in (plays, copy.deepcopy(plays), pickle.loads(pickle.dumps(plays))):
        recorded.clear()
        rollout(denoiser, one, Rules(40, 8), [prompt], [0])
        assert recorded == [1]


class OnGPU:
    """As a tensor of so many rows and numbers there."""

    is_cuda = True

    def __init__(self, rows: int, numbers: int) -> None:
        self.rows, self.numbers = rows, numbers

    def __len__(self) -> int:
        return self.rows

    def numel(self) -> int:
        return self.numbers


def test_what_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    capturing = [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    few: Any = [OnGPU(4, 400), OnGPU(4, 4)]
    assert graphs.records(few)
    assert not graphs.records([torch.ones(4, 2)])
    assert not graphs.records([OnGPU(0, 0)])  # type: ignore[list-item]
    assert not graphs.records([OnGPU(4, graphs.LARGEST), OnGPU(4, 4)])  # type: ignore[list-item]
    with monkeypatch.context() as cast:
        cast.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
        assert not graphs.records(few)
    capturing[0] = True  # by an engine that calls the policy
    assert not graphs.records(few)


def test_constants_are_made_anew_for_a_graph() -> None:
    kept = counted(5, torch.device("cpu"))
    with constants_anew():
        made = counted(5, torch.device("cpu"))
        assert made is not kept
        assert made.tolist() == kept.tolist()
    assert counted(5, torch.device("cpu")) is kept
