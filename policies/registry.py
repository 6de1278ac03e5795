"""Rules by name, and rules from a user's own file."""

from __future__ import annotations

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation
from dllm_env.policies import heuristics as rules
from dllm_env.policies.base import Decision, Policy
from dllm_env.policies.corrected import ASS, EOSER, Credit, PCSampler
from dllm_env.policies.dependent import DAPD, DAWN
from dllm_env.policies.heuristics import Heuristic
from dllm_env.policies.remasking import Anchored, JointThreshold, ReMDM, Wino
from dllm_env.policies.steady import Less, LongestStablePrefix, MultiBlock
from dllm_env.random import RowRandom
from dllm_env.rules import Context
from dllm_env.specs import load
from dllm_env.user_code import FilePart, load_from_file

HEURISTICS: dict[str, type[Heuristic]] = {
    rule.rule: rule
    for rule in (
        *(rules.Random, rules.TopK, rules.Margin, rules.Entropy, rules.Leftmost, rules.Rightmost, rules.Dilated),
        *(
            rules.FirstHitting,
            rules.Ancestral,
            rules.Threshold,
            rules.FastDLLM2,
            rules.Factor,
            rules.EntropyBound,
            rules.Klass,
            rules.LocalLeap,
        ),
        *(
            rules.Hierarchy,
            EOSER,
            ASS,
            Credit,
            PCSampler,
            Less,
            LongestStablePrefix,
            DAPD,
            DAWN,
            MultiBlock,
            Wino,
            JointThreshold,
            ReMDM,
            Anchored,
        ),
    )
}
"""The rules by name."""


def load_heuristic(text: str) -> Heuristic:
    """A rule by name with its parameters: ``threshold:0.9``, ``top_k:k=2``, ``random``.

    Raises:
        UsageError: no such rule or parameter, or a value out of range.
    """
    return load(text, HEURISTICS, "heuristic")


# ------------------------------------------------------------------------------------------ user's rules


class FileRule:
    """A policy from a user's file, under the text that names it.

    Attributes:
        policy: the user's object.
        name: ``file.py:Class(parameter=value)``.
        digest: of the file.
    """

    def __init__(self, policy: Policy, name: str, digest: str) -> None:
        self.policy, self.name, self.digest = policy, name, digest
        self.context: Context = getattr(policy, "context", "block")
        self.top: int = getattr(policy, "top", 1)
        self.extras: Extras = getattr(policy, "extras", Extras())
        self.remasks: bool = getattr(policy, "remasks", False)
        self.edits: bool = getattr(policy, "edits", False)

    def fingerprint(self) -> str:
        """A digest of its file."""
        return self.digest

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """The user's decision."""
        return self.policy.act(observation, random)


def load_file_rule(place: FilePart) -> FileRule:
    """A user's rule: a class with ``act``, in a Python file, with its parameters in parentheses.

    The file is executed.

    Raises:
        UsageError: no such file or class, a file that fails, or parameters that do not fit.
    """
    loaded = load_from_file(place, "policy", ("act",))
    return FileRule(loaded.value, place.text, loaded.digest)
