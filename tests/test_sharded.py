"""Denoisers that are trained in shares: as ``torchrun`` starts processes, and what can be seen in one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import toy_denoiser
from make_checkpoint import make_bert, make_llada, make_sedd
from pairs import assert_same_run, weights
from test_together import ENVIRONMENT
from torch import nn

from dllm_env.denoisers.load import load_denoiser
from dllm_env.errors import UsageError
from dllm_env.train.dcolt import DCoLT, train_dcolt
from dllm_env.train.sharded import Kept, blocks, check, divided_as, whole

pytest.importorskip("accelerate")

SMALL: dict[str, Any] = {
    **{"prompts": 3, "num_generations": 4, "updates": 2, "warmup": 1, "width": 8, "head": "bernoulli", "bias": 0.0},
    **{"reward": ("additive",), "alpha": 1.0, "train_denoiser": "full", "denoiser_learning_rate": 1e-3},
    **{"validation_problems": 2, "validation_rules": (), "microbatch_size": 8, "kl_weight": 0.1},
}


def run(processes: int, *words: str) -> str:
    """What so many processes of one thread print."""
    begin = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run([*begin, *words], capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def train(processes: int, folder: Path, settings: dict[str, Any], stop: int = 9) -> list[dict[str, list[int]]]:
    """What ``shares.py`` says of a training."""
    program = str(Path(__file__).parent / "shares.py")
    said = run(processes, program, json.dumps(settings), str(folder), str(stop))
    found: list[dict[str, list[int]]] = json.loads(said.splitlines()[-1])
    return found


def alone(folder: Path, settings: dict[str, Any], **more: Any) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    train_dcolt(DCoLT().changed(**settings), folder, **more)
    torch.set_num_threads(before)


def assert_close(first: Path, second: Path) -> None:
    """Equal checkpoints up to rounding.

    But for biases of keys, which no softmax sees: their gradients are rounding alone, and Adam makes them as large.
    """
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    for name, value in one.items():
        if name.endswith(("key/bias", "k_proj/bias")):
            continue
        assert torch.allclose(two[name].float(), value.float(), atol=1e-4, rtol=1e-3), name


def assert_learned(folder: Path, base: str) -> None:
    """The denoiser that was saved is that of the checkpoint, and no longer what it was."""
    now, start = load_denoiser(folder / "last"), load_denoiser(base)
    state = weights(folder)
    moved = 0.0
    with torch.no_grad():
        for (name, weight), (_, before) in zip(
            now.module.named_parameters(), start.module.named_parameters(), strict=True
        ):
            assert torch.equal(weight, state[f"denoiser.{name.replace('.', '/')}"]), name
            moved = max(moved, float((weight - before).abs().max()))
    assert moved > 5e-4


def assert_divided(said: list[dict[str, list[int]]], numbers: int) -> None:
    """Weights, gradients and state are there once among all; who plays has all weights, but not while it learns."""
    for what in ("weights", "gradients", "state"):
        each = [one[what][0] for one in said]
        assert sum(each) == numbers
        assert max(each) < numbers * 0.7
    assert all(one["playing"] == [numbers] * len(one["playing"]) for one in said)
    assert all(one["learning"] == [0] * len(one["learning"]) != [] for one in said)


def test_weights_of_shares_are_those_of_one_process(toy_folder: Path, tmp_path: Path) -> None:
    """Also with activations that are computed again, a reference, and unlike numbers of pieces."""
    settings = {**SMALL, "denoiser": str(toy_folder), "activation_checkpointing": True}
    alone(tmp_path / "one", settings)
    said = train(2, tmp_path / "two", {**settings, "fsdp": True})
    assert_close(tmp_path / "one", tmp_path / "two")
    assert_learned(tmp_path / "two", str(toy_folder))
    assert_divided(said, sum(weight.numel() for weight in load_denoiser(str(toy_folder)).module.parameters()))


@pytest.mark.parametrize(("make", "processes"), [(make_llada, 3), (make_bert, 2), (make_sedd, 2)])
def test_checkpoints_of_published_architectures_are_trained_in_shares(
    make: Callable[[Path], Path], processes: int, tmp_path: Path
) -> None:
    """BERT's embeddings are its head, too."""
    base = f"{make(tmp_path / 'model')}" + (":chat=0" if make is not make_sedd else "")
    settings = {**SMALL, "denoiser": base, "response_length": 8}
    alone(tmp_path / "one", settings)
    said = train(processes, tmp_path / "two", {**settings, "fsdp": True})
    assert_close(tmp_path / "one", tmp_path / "two")
    assert_learned(tmp_path / "two", base)
    assert_divided(said, sum(weight.numel() for weight in load_denoiser(base).module.parameters()))


def test_a_stopped_run_goes_on_by_any_number_of_processes(toy_folder: Path, tmp_path: Path) -> None:
    """Bit for bit by as many, up to rounding by others, and without shares."""
    settings = {**SMALL, "denoiser": str(toy_folder), "save_every": 1, "fsdp": True}
    train(2, tmp_path / "whole", settings)
    train(2, tmp_path / "two", settings, stop=1)
    for name in ("three", "unlike", "lone"):
        shutil.copytree(tmp_path / "two", tmp_path / name)
    for processes, name, more in ((2, "two", ()), (3, "three", ()), (2, "unlike", ("--no-fsdp",))):
        words = ("-m", "dllm_env", "--", "train", "dcolt", "--resume", *more)
        run(processes, *words, "--out", str(tmp_path / name))
    assert_same_run(tmp_path / "whole", tmp_path / "two")
    alone(tmp_path / "lone", settings, resume=True)
    for name in ("three", "unlike", "lone"):
        assert_close(tmp_path / "whole", tmp_path / name)


# ------------------------------------------------------------------------------------------ in one process


def test_one_process_has_nothing_to_divide(toy_folder: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "denoiser": str(toy_folder), "updates": 1}
    alone(tmp_path / "plain", settings)
    alone(tmp_path / "shares", {**settings, "fsdp": True})
    assert_same_run(tmp_path / "plain", tmp_path / "shares")


def test_blocks_are_the_outermost_lists_entries_that_have_weights() -> None:
    inner = nn.ModuleList([nn.Linear(2, 2)])
    block = nn.ModuleDict({"experts": inner})
    network = nn.ModuleDict({"top": nn.Linear(2, 2), "base": nn.ModuleDict({"layers": nn.ModuleList([block])})})
    network["acts"] = nn.ModuleList([nn.ReLU()])
    assert blocks(network) == [block]


def test_weights_that_are_kept_elsewhere_come_back() -> None:
    network = nn.Linear(2, 3)
    shares = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    kept = Kept(network, shares)
    with kept.away():
        assert [weight.numel() for weight in network.parameters()] == [0, 0]
        shares["bias"].fill_(7.0)
    assert torch.equal(network.weight, shares["weight"])
    assert network.bias.tolist() == [7.0] * 3
    kept.free()
    with kept.there():
        assert network(torch.zeros(1, 2)).tolist() == [[7.0] * 3]
    assert network.weight.numel() == 0
    assert whole(network.bias) is network.bias
    assert divided_as(network.weight, network.bias) is network.weight


def test_what_cannot_be_divided_is_refused() -> None:
    for kind in ("lora", "none"):
        with pytest.raises(UsageError, match=f"{kind} trains few or none of them; give --train-denoiser full"):
            DCoLT().changed(fsdp=True, train_denoiser=kind)
    denoiser = toy_denoiser()
    check(denoiser)
    denoiser.pads = False
    with pytest.raises(UsageError, match="cannot pad prompts"):
        check(denoiser)
    denoiser.pads = True
    denoiser.device = torch.device("meta")
    with pytest.raises(UsageError, match="spread over devices; leave device_map away"):
        check(denoiser)
    denoiser.device = torch.device("cpu")
    denoiser.module.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(UsageError, match="its weight scale is a single number"):
        check(denoiser)
