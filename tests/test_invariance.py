"""What a row gets, bit for bit, whatever shares its batch: by construction, and on this machine as it is.

With ``DLLM_ENV_INVARIANCE=full`` checkpoints of several families are tried, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dllm_env.numerics import in_tiles, lowest_argmax, rows_at_once

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


def test_the_lowest_of_equals() -> None:
    values = torch.tensor(
        [[1.0, 3.0, 3.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0, 2.0], [-torch.inf, 0.0, -1.0, 0.0, -2.0]]
    )
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert lowest_argmax(values.to(dtype)).tolist() == [1, 0, 1]
    assert lowest_argmax(torch.zeros(2, 3, 400)).tolist() == [[0] * 3] * 2
