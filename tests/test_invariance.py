"""What a row gets, bit for bit, whatever shares its batch: by construction, and on this machine as it is.

With ``DLLM_ENV_INVARIANCE=full`` checkpoints of several families are tried, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextvars import ContextVar
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dllm_env.denoisers.load import load_denoiser
from dllm_env.numerics import in_tiles, log_sum_exp, of_distinct, rows_at_once, side_by_side

FULL = os.environ.get("DLLM_ENV_INVARIANCE") == "full"
HERE = Path(__file__).parent


def has(instructions: str) -> bool:
    """Whether this processor can; torch does not ask before it uses what it is told to."""
    flags = {"avx2": ("avx2", "fma"), "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl")}
    try:
        known = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return instructions == "default"
    return all(flag in known for flag in flags.get(instructions, ()))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    from make_checkpoint import make_bert, make_dream, make_llada

    root = tmp_path_factory.mktemp("checkpoints")
    return [str(make(root / make.__name__)) for make in (make_llada, make_dream, make_bert)] if FULL else []


@pytest.mark.parametrize("instructions", ["default", "avx2", "avx512"])
def test_rows_do_not_depend_on_their_batch(instructions: str, checkpoints: list[str]) -> None:
    if not has(instructions):
        pytest.skip(f"this processor has no {instructions}")
    settings = {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4", "ATEN_CPU_CAPABILITY": instructions}
    paths = os.pathsep.join([str(HERE), str(HERE.parent / "examples"), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", HERE / "invariance.py", *checkpoints],
        env={**os.environ, **settings, "OMP_WAIT_POLICY": "passive", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout + ran.stderr


class Owner:
    """Somebody whose function it is."""


def added_up(x: Tensor) -> Tensor:
    """(n, d) to (n, 1), one column after the other."""
    total = torch.zeros(len(x))
    for column in x.unbind(-1):
        total = total + column
    return total[:, None]


def by_number(x: Tensor) -> Tensor:
    """Adds up in another order the more rows there are, as kernels do."""
    return added_up(x.roll(7 * (len(x) % 5), 1))


def by_place(x: Tensor) -> Tensor:
    """Adds up in another order at each place of a tile."""
    return added_up(torch.stack([row.roll(7 * (i % 5)) for i, row in enumerate(x)]))


@pytest.mark.parametrize("kernel", [by_number, by_place])
@pytest.mark.parametrize("rows", [1, 4, 7])
def test_tiles_make_rows_independent_of_their_number_and_place(kernel, rows: int) -> None:
    x = torch.randn(23, 50, generator=torch.Generator().manual_seed(0)).exp()
    assert any(not torch.equal(kernel(x)[i : i + 1], kernel(x[i : i + 1])) for i in range(23))
    owner = Owner()

    def tiled(some: Tensor) -> Tensor:
        return in_tiles(lambda places: (kernel(some[places]),), len(some), rows, owner, "sum")[0]

    together = tiled(x)
    assert together.shape == (23, 1)
    for first in range(23):
        for last in range(first + 1, 24):
            assert torch.equal(tiled(x[first:last]), together[first:last])


def test_tiles_have_one_size() -> None:
    sizes: list[int] = []

    def function(places: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(places))
        return places, places * 2.0

    owner = Owner()
    for count in (1, 4, 5, 9):
        one, other = in_tiles(function, count, 4, owner, "x")
        assert one.tolist() == list(range(count))
        assert other.tolist() == [2.0 * i for i in range(count)]
    assert set(sizes) == {4}
    assert len(sizes) == 1 + 1 + 1 + 2 + 3  # one to find out, once
    assert [rows_at_once(positions, 128) for positions in (1, 64, 10_000)] == [512, 8, 1]
    assert [len(values) for values in in_tiles(function, 0, 4, owner, "x")] == [0, 0]


@pytest.mark.parametrize("threads", [1, 3])
def test_side_by_side_each_has_one_thread_and_what_the_caller_has(threads: int) -> None:
    chosen: ContextVar[str] = ContextVar("chosen", default="none")

    def look(item: int) -> tuple[int, int, bool, str]:
        return item, torch.get_num_threads(), torch.is_grad_enabled(), chosen.get()

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    chosen.set("mine")
    try:
        assert side_by_side(look, range(7)) == [(i, 1, True, "mine") for i in range(7)]
        with torch.no_grad():
            assert {found[2] for found in side_by_side(look, range(3))} == {False}
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda item: 1 / item, [1, 0, 1])
        assert torch.get_num_threads() == threads
        assert side_by_side(lambda item: side_by_side(look, [item])[0][1], range(4)) == [1] * 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_does_not_wait_for_threads_that_stayed_behind() -> None:
    code = """
import os, torch
from dllm_env.numerics import side_by_side
torch.set_num_threads(2)
assert side_by_side(abs, [-1, -2, -3]) == [1, 2, 3]
child = os.fork()
if not child:
    assert side_by_side(abs, [-1, -2, -3]) == [1, 2, 3]
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def test_equal_rows_are_looked_at_once() -> None:
    asked: list[list[list[int]]] = []

    def function(rows: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(rows.tolist())
        return rows.sum(-1), rows * 2

    rows = torch.tensor([[3, 1], [1, 2], [3, 1], [0, 9], [1, 2]])
    total, twice = of_distinct(function, rows)
    assert total.tolist() == [4, 3, 4, 9, 3]
    assert torch.equal(twice, rows * 2)
    assert sorted(asked[0]) == [[0, 9], [1, 2], [3, 1]]
    for few in (rows[:2], rows[:1], rows[:0]):
        total, twice = of_distinct(function, few)
        assert torch.equal(twice, few * 2)
        assert asked[-1] == few.tolist()


def test_a_group_s_first_state_is_evaluated_once(monkeypatch) -> None:
    denoiser = load_denoiser("tiny")
    tokens = torch.full((6, 12), denoiser.mask_id)
    tokens[:, 0] = torch.tensor([5, 6, 5, 5, 6, 5])
    seen: list[int] = []
    forward = type(denoiser.network).forward

    def counted(self, some: Tensor, *more: object) -> Tensor:
        seen.append(len(some.unique(dim=0)))
        return forward(self, some, *more)

    monkeypatch.setattr(type(denoiser.network), "forward", counted)
    alone = torch.cat([denoiser.features(row[None], 8) for row in tokens])
    seen.clear()
    assert torch.equal(denoiser.features(tokens, 8), alone)
    assert sum(seen) == 2


def test_the_lowest_of_equals() -> None:
    values = torch.tensor(
        [[1.0, 3.0, 3.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0, 2.0], [-torch.inf, 0.0, -1.0, 0.0, -2.0]]
    )
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert values.to(dtype).max(-1).indices.tolist() == [1, 0, 1]
    for width in (2, 7, 16, 33, 400, 5000):
        assert torch.zeros(2, 3, width).max(-1).indices.tolist() == [[0] * 3] * 2


def test_a_total_is_that_of_the_library_to_the_bit() -> None:
    infinite = torch.inf
    rows = torch.cat((torch.randn(6, 777) * 30, torch.full((1, 777), -infinite), torch.full((1, 777), 3e38)))
    rows[1, 5], rows[2, 7], rows[3, 0] = -infinite, infinite, torch.nan
    found = log_sum_exp(rows, rows.amax(-1, keepdim=True))[:, 0]
    assert torch.equal(found.nan_to_num(12345.0), rows.logsumexp(-1).nan_to_num(12345.0))
    assert torch.isnan(found).tolist() == [False, False, False, True, False, False, False, False]
