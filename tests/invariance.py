"""Whether a row's numbers depend on what shares its batch, with 1 to 4 threads.

``test_invariance.py`` runs this file under several instruction sets, each in a process of its own, because torch
reads that setting when it starts. It prints nothing where all is well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from conftest import toy_denoiser
from test_rollout import learned
from torch import Tensor

from dllm_env.denoisers.base import Denoiser, Extras
from dllm_env.denoisers.load import load_denoiser
from dllm_env.dynamics import Observation
from dllm_env.eval.likelihood import log_likelihoods
from dllm_env.random import RowRandom, torch_generator

EXTRAS = Extras(entropy=True, margin=True, hidden=True)


def differing(function: Callable[[Tensor], list[Tensor]], count: int, batches: tuple[int, ...]) -> list[str]:
    """The batches in which some row of ``function`` is not what it is among all rows."""
    together = function(torch.arange(count))
    bad = []
    for size in batches:
        for first in {0, 1, count - size}:
            rows = torch.arange(first, first + size)
            if not all(torch.equal(a[rows], b) for a, b in zip(together, function(rows), strict=True)):
                bad.append(f"rows {first} to {first + size - 1}")
    return bad


def predictions(denoiser: Denoiser, width: int, length: int, count: int) -> Callable[[Tensor], list[Tensor]]:
    """Predictions of random sequences, tokens drawn."""
    generator = torch_generator("sequences", width)
    tokens = torch.randint(3, denoiser.vocabulary, (count, width), generator=generator)
    masked = torch.rand(count, length, generator=generator) < 0.6
    tokens[:, -length:][masked] = denoiser.mask_id
    tokens[::3, :2] = denoiser.pad_id

    def predict(rows: Tensor) -> list[Tensor]:
        random = RowRandom.from_seeds(rows.tolist(), "tokens")
        found = denoiser.predict(tokens[rows], masked[rows], 2, 0.7, random, EXTRAS)
        return [value for value in found.values() if value is not None]

    return predict


def decisions(width: int, positions: int, count: int) -> Callable[[Tensor], list[Tensor]]:
    """Scores, draws and log-probabilities of a policy."""
    policy, generator = learned(width=width), torch_generator("observations", positions)
    masked = torch.rand(count, positions, generator=generator) < 0.6
    confidence = torch.rand(count, positions, 1, generator=generator) * masked[..., None]
    progress = torch.randint(0, 40, (count,), generator=generator) / 40
    seen = Observation(confidence, masked, masked, progress, masked.sum(-1), progress.long())

    @torch.no_grad()
    def decide(rows: Tensor) -> list[Tensor]:
        decision = policy.act(seen[rows], RowRandom.from_seeds(rows.tolist(), "policy"))
        assert decision.log_prob is not None
        assert decision.entropy is not None
        return [policy.network(seen[rows]), decision.unmask, decision.log_prob, decision.entropy]

    return decide


def likelihoods(denoiser: Denoiser) -> list[str]:
    """Of texts whose sequences are 13 tokens long, and others, in batches of several sizes."""
    generator = torch_generator("texts")
    texts = [torch.randint(3, denoiser.vocabulary, (n,), generator=generator).tolist() for n in (13, 13, 14, 20)]
    pairs = [(text[:4], text[4:]) for text in texts]

    def estimate(batch: int) -> list[tuple[int, float]]:
        return sorted(log_likelihoods(denoiser, pairs, [0, 1, 2, 3], 24, batch))

    return [f"batches of {size}" for size in (1, 5) if estimate(size) != estimate(128)]


def check(folders: list[str]) -> dict[str, list[str]]:
    """Which batches differ: of the bundled denoisers, policies, and the checkpoints in these folders."""
    toy, few = toy_denoiser(), (1, 3, 11)
    found = {"likelihood of toy": likelihoods(toy)}
    for width, length in ((13, 9), (33, 7)):
        found[f"toy, {width} tokens"] = differing(predictions(toy, width, length, 40), 40, few)
    found["tiny"] = differing(predictions(load_denoiser("tiny"), 64, 40, 20), 20, few)
    for width, positions in ((32, 5), (64, 13), (128, 40)):
        found[f"policy {width}, {positions} positions"] = differing(decisions(width, positions, 50), 50, few)
    for folder in folders:
        for dtype in ("float32", "bfloat16"):
            denoiser = load_denoiser(f"{folder}:dtype={dtype}")
            name = f"{Path(folder).name}, {dtype}"
            found[name] = differing(predictions(denoiser, 23, 13, 8), 8, (1, 3))
            found[f"likelihood of {name}"] = likelihoods(denoiser)
    return found


def main(folders: list[str]) -> None:
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        for name, bad in check(folders).items():
            if bad:
                print(f"{threads} threads, {name}: {', '.join(bad)}")


if __name__ == "__main__":
    main(sys.argv[1:])
