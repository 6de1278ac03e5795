"""A run of DCoLT by processes of which the first one says what each had: ``torchrun shares.py SETTINGS OUT STOP``.

SETTINGS is JSON, by flat name; after update STOP the run is left as by a kill. The last line printed is JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dllm_env.train import dcolt, grpo
from dllm_env.train.sharded import is_divided
from dllm_env.world import this_world


def numbers(tensors: Iterable[Tensor]) -> int:
    """How many this process holds."""
    return sum((one.to_local() if is_divided(one) else one).numel() for one in tensors)  # type: ignore[attr-defined]


def main(settings: dict[str, Any], folder: Path, stop_after: int) -> None:
    seen: dict[str, list[int]] = {}
    learners: list[Any] = []

    def make(setup: Any, given: Any) -> Any:
        learners.append(dcolt.make_learner(setup, given))
        return learners[0]

    def once(setup: Any, learner: Any, given: Any, callbacks: Any) -> str:
        seen.setdefault("playing", []).append(numbers(setup.denoiser.module.parameters()))
        return dcolt.train_once(setup, learner, given, callbacks)

    def learn(*given: Any) -> None:
        seen.setdefault("learning", []).append(numbers(plain.module.parameters()))
        really(*given)

    really, dcolt.learn = dcolt.learn, learn  # type: ignore[assignment]
    plain = None

    def validator(setup: Any, *given: Any) -> Any:
        nonlocal plain
        plain = setup.denoiser
        return dcolt.JointValidator(setup, *given)

    algorithm = replace(dcolt.DCOLT, learner=make, once=once, validator=validator)
    grpo.train(algorithm, dcolt.DCoLT().changed(**settings), folder, stop_after=stop_after)
    (learner,) = learners
    entries = learner.denoiser_optimizer.state.values()
    seen["weights"] = [numbers(learner.trained.parameters())]
    seen["gradients"] = [numbers(weight.grad for weight in learner.trained.parameters())]
    seen["state"] = [numbers(entry["exp_avg"] for entry in entries)]
    told = this_world().gather(seen)
    if this_world().first:
        print(json.dumps(told))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
