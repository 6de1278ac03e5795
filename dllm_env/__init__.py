"""dllm-env: train and compare unmasking policies for diffusion language models.

A masked diffusion language model writes a response by unmasking it, some positions at a time. Which positions, and
how many at once, decides both how right the response is and how many model evaluations it costs. Here that choice
is a reinforcement learning environment:

    import gymnasium
    import dllm_env

    env = gymnasium.make("dllm_env/Unmask-v0", denoiser="tiny", task="trace", block_length=40, alpha=0.1)
    envs = gymnasium.make_vec("dllm_env/Unmask-v0", num_envs=64, denoiser="tiny", task="trace", block_length=40)

From the bottom up, each importing only what stands before it:

    errors, specs, numerics, random   what everything rests on
    grading      whether an answer or a program is right
    tasks        where prompts come from, when a response is right
    rewards      what it earns
    denoisers    the language models that predict tokens
    dynamics     the Markov decision process, batched
    env, vector_env  its Gymnasium faces
    policies     what decides: published rules, learned networks, and the loop that plays them
    train, eval  how policies learn, how they compare
    commands     what the command line does with all of these
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from dllm_env import consent as consent
from dllm_env.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from dllm_env.denoisers.base import Denoiser as Denoiser
    from dllm_env.denoisers.base import Extras as Extras
    from dllm_env.denoisers.load import load_denoiser as load_denoiser
    from dllm_env.dynamics import Dynamics as Dynamics
    from dllm_env.env import EnvConfig as EnvConfig
    from dllm_env.env import UnmaskEnv as UnmaskEnv
    from dllm_env.policies.generate import generate as generate
    from dllm_env.rewards import load_reward as load_reward
    from dllm_env.rules import Rules as Rules
    from dllm_env.tasks.load import load_task as load_task
    from dllm_env.vector_env import UnmaskVectorEnv as UnmaskVectorEnv

__version__ = "0.1.0"

# Python started in a checkout finds this folder first, and policies/, train/ and eval/ beside it.
if not os.path.isdir(os.path.join(os.path.dirname(__file__), "policies")):
    __path__.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

ENVIRONMENT = "dllm_env/Unmask-v0"
"""The id that ``gymnasium.make`` and ``gymnasium.make_vec`` take."""

_HOMES = {
    "Denoiser": "denoisers.base",
    "Extras": "denoisers.base",
    "load_denoiser": "denoisers.load",
    "Dynamics": "dynamics",
    "Rules": "rules",
    "EnvConfig": "env",
    "UnmaskEnv": "env",
    "generate": "policies.generate",
    "UnmaskVectorEnv": "vector_env",
    "load_reward": "rewards",
    "load_task": "tasks.load",
}
"""Public name to module; imported when first used, because torch takes seconds and ``--help`` should not."""

__all__ = ["ENVIRONMENT", "UsageError", "register_environments", *_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def register_environments() -> None:
    """Makes the environment known to Gymnasium; more than once does no harm.

    >>> import gymnasium
    >>> env = gymnasium.make(ENVIRONMENT, task="trace", block_length=8)  # as on ``import dllm_env``
    >>> env.action_space
    MultiBinary(40)
    """
    from gymnasium.envs.registration import register, registry

    if ENVIRONMENT not in registry:
        register(
            id=ENVIRONMENT,
            entry_point="dllm_env.env:UnmaskEnv",
            vector_entry_point="dllm_env.vector_env:UnmaskVectorEnv",
        )


class _After:
    """Does something once a module has been imported, and costs nothing before.

    Attributes:
        name: of the module.
        action: what is done.
    """

    def __init__(self, name: str, action: Callable[[], object]) -> None:
        self.name, self.action = name, action

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Lets the other finders find it, and acts when it has run."""
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                self.action()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _after(name: str, action: Callable[[], object]) -> None:
    """Acts once a module is there, now or later."""
    if name in sys.modules:
        action()
    elif not any(type(finder).__name__ == "_After" and finder.name == name for finder in sys.meta_path):  # type: ignore[attr-defined]
        sys.meta_path.insert(0, _After(name, action))


_after("gymnasium", register_environments)
_after("stable_baselines3", lambda: importlib.import_module(f"{__name__}.train.sb3"))  # PPO("UnmaskPolicy", …)
