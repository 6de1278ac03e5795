"""One random stream per row: golden values, uniformity, independence, indexing."""

from __future__ import annotations

import hashlib

import pytest
import torch

from dllm_env.random import RowRandom, derive_key, torch_generator

ALL = (1 << 64) - 1


def split_mix(key: int, number: int) -> int:
    """SplitMix64's output ``number`` (from 1) after the seed ``key``, in plain integers."""
    z = (key + number * 0x9E3779B97F4A7C15) & ALL
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & ALL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & ALL
    return z ^ (z >> 31)


def rows(*keys: int) -> RowRandom:
    return RowRandom(torch.tensor(keys, dtype=torch.int64))


def many(count: int) -> RowRandom:
    return RowRandom.from_seeds(list(range(count)), "test")


def test_golden_values() -> None:
    # The published first outputs of SplitMix64 with seed 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [split_mix(1234567, n) for n in (1, 2, 3)] == published
    drawn = rows(1234567).rand(3)[0]
    assert drawn.tolist() == [((bits >> 12) + 0.5) * 2.0**-52 for bits in published]


@pytest.mark.parametrize("key", [0, 1, -1, -(1 << 63), (1 << 63) - 1, 42])
def test_equals_integer_arithmetic(key: int) -> None:
    random = rows(key)
    drawn = torch.cat((random.rand(3), random.rand(4)), -1)[0]
    assert drawn.tolist() == [((split_mix(key & ALL, n) >> 12) + 0.5) * 2.0**-52 for n in range(1, 8)]


def test_numbers_are_uniform_on_the_open_interval() -> None:
    drawn = many(100).rand(2_000).flatten()
    assert drawn.min() > 0
    assert drawn.max() < 1
    counts = torch.histc(drawn, 50, 0, 1)
    expected = len(drawn) / 50
    assert ((counts - expected) ** 2 / expected).sum() < 90  # chi-square, 49 degrees of freedom, p < 0.0003


def test_extreme_bits_stay_inside() -> None:
    smallest, largest = (0 + 0.5) * 2.0**-52, ((1 << 52) - 1 + 0.5) * 2.0**-52
    assert 0 < smallest < largest < 1
    assert torch.isfinite(many(50).gumbel(2_000)).all()


def test_gumbel_has_its_mean_and_variance() -> None:
    noise = many(100).gumbel(2_000)
    assert noise.dtype == torch.float64
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.015)
    assert noise.var().item() == pytest.approx(torch.pi**2 / 6, rel=0.02)


def test_rows_are_uncorrelated() -> None:
    drawn = many(30).rand(4_000)
    correlation = torch.corrcoef(drawn) - torch.eye(30)
    assert correlation.abs().max() < 0.08  # 5 standard deviations of 1/√4000
    shifted = torch.corrcoef(torch.stack((drawn[:, :-1].flatten(), drawn[:, 1:].flatten())))[0, 1]
    assert shifted.abs() < 0.015


def test_a_row_does_not_see_its_neighbours() -> None:
    together = many(5)
    first, second = together.rand(3), together.rand(4)
    for row in range(5):
        alone = RowRandom.from_seeds([row], "test")
        assert torch.equal(alone.rand(3)[0], first[row])
        assert torch.equal(alone.rand(4)[0], second[row])


def test_how_numbers_are_grouped_does_not_matter() -> None:
    one, two = many(3), many(3)
    assert torch.equal(one.rand(7), torch.cat((two.rand(2), two.rand(5)), -1))


def test_indexing_takes_the_stream_along() -> None:
    random, reference = many(4), many(4)
    random.rand(3)
    reference.rand(3)
    chosen = random[torch.tensor([2, 0])]
    expected = reference.rand(5)
    assert len(chosen) == 2
    assert torch.equal(chosen.rand(5), expected[[2, 0]])
    assert torch.equal(random.rand(5), expected), "the choice has to be a copy"


def test_writing_replaces_a_stream() -> None:
    random = many(3)
    random.rand(6)
    random.write(torch.tensor([1]), RowRandom.from_seeds([77], "test"))
    drawn, kept = random.rand(4), many(3).rand(10)[:, 6:]
    assert torch.equal(drawn[1:2], RowRandom.from_seeds([77], "test").rand(4))
    assert torch.equal(drawn[[0, 2]], kept[[0, 2]])


def test_keys_depend_on_every_part_and_its_place() -> None:
    keys = {derive_key(*parts) for parts in [(1, 2), (2, 1), (12,), ("1", 2, 0), (1,), ()]}
    assert len(keys) == 6
    assert derive_key(1, "tokens") == derive_key("1", "tokens")
    digest = hashlib.blake2b(b"1\x1ftokens", digest_size=8).digest()
    assert derive_key(1, "tokens") == int.from_bytes(digest, "little", signed=True)
    assert not torch.equal(many(1).rand(1), RowRandom.from_seeds([0], "other").rand(1))


def test_torch_generator_is_a_function_of_its_parts() -> None:
    first, again, other = (torch.rand(3, generator=torch_generator(*key)) for key in [("a", 1), ("a", 1), ("a", 2)])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_wrong_keys_are_refused() -> None:
    for keys in (torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2)):
        with pytest.raises(ValueError, match="keys"):
            RowRandom(keys)
