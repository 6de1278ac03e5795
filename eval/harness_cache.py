"""What the harness may keep of this model's results, and for whom (``--use_cache``).

The harness's cache knows a request by its text and generation arguments alone: neither the model, nor its settings,
nor which of several repeats it is. So a cache is claimed here for one model with its settings, and what followed
from random numbers is taken out again before the cache is used the next time: it is generated anew, from the same
random streams, and comes out the same. A second run therefore gives what the first one gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from lm_eval.api.model import hash_args

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.base import Decision, Policy
from dllm_env.random import RowRandom
from dllm_env.rules import Context

MODEL, DRAWN = "dllm-env model", "dllm-env drawn"
"""Names of entries, which are not those of requests: those are SHA-256 in hexadecimal."""

Cache = MutableMapping[str, Any]


def claim(cache: Cache, model: Mapping[str, str]) -> None:
    """Makes a cache that is empty this model's, and takes results that were drawn at random out of one that is.

    Args:
        cache: the harness's.
        model: everything that results follow from, but for the request.

    Raises:
        UsageError: the cache has results of another model, or of other settings.
    """
    known: Mapping[str, str] = cache.get(MODEL, model)
    if MODEL not in cache and len(cache):
        raise UsageError(
            "this cache has results of another model, or of an older version; give another --use_cache, or remove "
            "its file"
        )
    for name in sorted({*model, *known}):
        mine, theirs = model.get(name), known.get(name)
        if mine != theirs:
            raise UsageError(
                f"this cache has results of another {name} ({theirs}, now {mine}); give another --use_cache, or "
                "remove its file"
            )
    cache[MODEL] = dict(model)
    for key in cache.get(DRAWN, ()):
        cache.pop(key, None)
    cache[DRAWN] = []


def keep_out(cache: Cache, kind: str, requests: Iterable[tuple[Any, ...]]) -> None:
    """Notes requests whose results were drawn at random, for ``claim`` to take out; the harness will put them in.

    Args:
        cache: the harness's.
        kind: of request, such as ``generate_until``.
        requests: their arguments.
    """
    cache[DRAWN] = sorted({*cache.get(DRAWN, ()), *(hash_args(kind, arguments) for arguments in requests)})


class Watched:
    """A policy that notices whether it drew random numbers.

    Attributes:
        policy: the one that decides.
        drew: whether it has taken any number from a row's stream.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy, self.drew = policy, False

    @property
    def name(self) -> str:
        """The policy's."""
        return self.policy.name

    @property
    def context(self) -> Context:
        """The policy's."""
        return self.policy.context

    @property
    def top(self) -> int:
        """The policy's."""
        return self.policy.top

    @property
    def extras(self) -> Extras:
        """The policy's."""
        return self.policy.extras

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """What the policy decides."""
        decision = self.policy.act(observation, random)
        self.drew = self.drew or bool(random.counters.any())
        return decision
