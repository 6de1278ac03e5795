"""What a round asks of a device: counted by benchmarks/launches.py, which sees every operation."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dllm_env.policies.heads import DynamicPlackettLuce
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import USUAL_SIGHT, NetworkConfig, make_network
from dllm_env.policies.registry import load_heuristic
from dllm_env.random import torch_generator
from dllm_env.rules import Rules
from dllm_env.tasks.load import load_task

WAITS = 4
"""Most times that the host waits in a round: which rows are asked about, which of their positions, whether their
logits are numbers, and which rows have ended."""
OPERATIONS = 150
RULES = ("leftmost:1", "top_k:1", "random:1", "threshold:0.999")


@pytest.fixture(scope="module")
def launches() -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / "launches.py"
    spec = importlib.util.spec_from_file_location("launches", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["launches"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def counted(launches: ModuleType, policy: str, block: int, rows: int, record: bool) -> tuple[Counter, Counter]:
    task = load_task("trace")
    prompts = [task.problem(index).prompt for index in range(rows)]
    return launches.per_round(load_heuristic(policy), Rules(40, block), prompts, record=record)


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("block", [40, 8])
@pytest.mark.parametrize("policy", RULES)
def test_the_host_seldom_waits_and_launches_little(launches, policy: str, block: int, record: bool) -> None:
    rounds = launches.LAST - launches.FIRST
    operations, waits = counted(launches, policy, block, 4, record)
    assert 0 < waits.total() <= WAITS * rounds, waits
    assert operations.total() <= OPERATIONS * rounds


LEARNED = {False: 235, True: 315}
"""Of a policy with the usual sight, without and with recording; a GPU is not asked for some thirty of them."""


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("block", [40, 8])
def test_a_learned_policy_launches_what_the_docs_say(launches, block: int, record: bool) -> None:
    shape = NetworkConfig(width=16, bias=-9.0, sight=USUAL_SIGHT, conditions=("preference",))
    network = make_network("confidence", shape, torch_generator("launches"))
    policy = LearnedPolicy(network, DynamicPlackettLuce(temperature=0.4), alpha=0.1)
    task = load_task("trace")
    prompts = [task.problem(index).prompt for index in range(4)]
    operations, _ = launches.per_round(policy, Rules(40, block), prompts, record=record)
    assert 0 < operations.total() <= LEARNED[record] * (launches.LAST - launches.FIRST)


def test_neither_grows_with_the_batch(launches) -> None:
    (few, waits), (many, more_waits) = (counted(launches, "leftmost:1", 8, rows, True) for rows in (2, 4))
    assert waits == more_waits
    assert few.total() == many.total()


def test_what_is_counted(launches) -> None:
    mask, values = torch.tensor([True, False]), torch.tensor([1.0, 2.0])
    with launches.Launches() as found:
        values[mask]
        values[torch.tensor([0])]
        values.sum().item()
        mask.nonzero()
        values.view(2, 1)
        with found.pause():
            values.sum().item()
    assert found.waits == {"index by a mask": 1, "_local_scalar_dense": 1, "nonzero": 1}
    assert found.operations["sum"] == 1
    assert "view" not in found.operations
