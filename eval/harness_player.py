"""What the model ``dllm-env`` of the lm-evaluation-harness does with its denoiser, in one process or several.

The first process has the model that the harness asks. It calls ``play`` and ``estimates``, which have the others
call ``play_share`` and ``estimate_share``; all are told what came out, so that a row may be anyone's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dllm_env.denoisers.load import load_denoiser
from dllm_env.dynamics import Dynamics
from dllm_env.errors import UsageError
from dllm_env.eval.harness_arguments import HarnessConfig
from dllm_env.eval.harness_cache import Watched
from dllm_env.eval.harness_together import LOAD, with_whom
from dllm_env.eval.likelihood import Pair, log_likelihoods
from dllm_env.policies.base import not_allowed, undoes
from dllm_env.policies.learned import load_policy
from dllm_env.policies.rollout import rollout
from dllm_env.random import derive_key
from dllm_env.rules import Rules
from dllm_env.world import Counter

Played = tuple[list[int], bool, int]
"""Response of a row, whether nothing is left masked, and its denoiser evaluations (NFE)."""


class Player:
    """Generates and estimates likelihoods, with the processes ``with_whom``.

    Args:
        config: names denoiser and policy.

    Attributes:
        denoiser, policy: as loaded.
        watched: the policy; after ``play`` it knows whether any process drew random numbers.
        block: block length where a request says none; 0 for one block.

    Raises:
        UsageError: arguments that do not fit, or cannot be loaded.
    """

    def __init__(self, config: HarnessConfig) -> None:
        self.config, self.together = config, with_whom()
        self.together.ask(LOAD, config)
        self.denoiser = load_denoiser(config.denoiser, config.device or None)
        self.policy = load_policy(config.policy, self.denoiser.device)
        self.watched = Watched(self.policy)
        if missing := not_allowed(self.policy, config):
            raise UsageError(f"{self.policy.name} {undoes(self.policy)}; allow it with {missing}=true")
        self.block = config.block_length or self.denoiser.attention_block
        length = config.response_length or self.block or 1
        Dynamics(self.denoiser, self.rules(length, config.temperature or 0.0), 0)  # refuses what does not fit

    def rules(self, length: int, temperature: float, block_length: int = 0) -> Rules:
        """The rules for responses of a length."""
        block = block_length or self.block
        return Rules.of(self.config, response_length=length, block_length=block, temperature=temperature).resolve()

    def play(
        self,
        rules: Rules,
        contexts: Sequence[list[int]],
        seeds: Sequence[int],
        report: Callable[[int], object],
    ) -> list[Played]:
        """Generates behind each context.

        Args:
            rules: of the generation.
            contexts: token ids.
            seeds: one for each.
            report: told how many rows are done, by whomever, now and then, and at the end.
        """
        self.together.ask("play_share", rules, contexts, seeds)
        rows = self.play_share(rules, contexts, seeds, report)
        report(len(rows))
        return rows

    def play_share(
        self,
        rules: Rules,
        contexts: Sequence[list[int]],
        seeds: Sequence[int],
        report: Callable[[int], object] | None = None,
    ) -> list[Played]:
        """``play`` in each of the processes."""
        counted = Counter(self.together.world)

        def tell(more: int) -> None:
            done = counted.add(more)
            if report is not None:
                report(done)

        def play(mine: list[int]) -> list[Played]:
            return self._play(rules, [contexts[i] for i in mine], [seeds[i] for i in mine], tell)

        self.watched.drew = False
        rows = self.together.divided(range(len(contexts)), play)
        self.watched.drew = self.together.any(self.watched.drew)
        return rows

    def _play(
        self, rules: Rules, contexts: Sequence[list[int]], seeds: Sequence[int], tell: Callable[[int], None]
    ) -> list[Played]:
        """By this process; with a model that cannot pad, contexts of one length together."""
        groups: dict[int, list[int]] = {}
        for i, ids in enumerate(contexts):
            groups.setdefault(0 if getattr(self.denoiser, "pads", True) else len(ids), []).append(i)
        played: dict[int, Played] = {}
        for members in groups.values():
            before = 0

            def report(done: int) -> None:
                nonlocal before
                tell(done - before)
                before = done

            result = rollout(
                self.denoiser,
                self.watched,
                rules,
                [contexts[i] for i in members],
                [seeds[i] for i in members],
                batch_size=self.config.batch_size,
                on_progress=report,
            )
            rows = zip(result.responses.tolist(), result.finished.tolist(), result.nfe.tolist(), strict=True)
            played |= zip(members, rows, strict=True)
        return [played[i] for i in range(len(contexts))]

    def estimates(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, float]]:
        """Which pair, and its estimated log-likelihood; of one process as soon as it is there.

        Continuations of one context that are as long share their masks.
        """
        if self.together.world.size == 1:
            return self._estimates(pairs)
        self.together.ask("estimate_share", pairs)
        return enumerate(self.estimate_share(pairs))

    def estimate_share(self, pairs: Sequence[Pair]) -> list[float]:
        """``estimates`` in each of the processes, of which one has all continuations of a context."""
        known: dict[tuple[int, ...], int] = {}
        owners = [known.setdefault(tuple(ids), len(known)) for ids, _ in pairs]

        def estimate(mine: list[int]) -> list[float]:
            values = dict(self._estimates([pairs[i] for i in mine]))
            return [values[i] for i in range(len(mine))]

        return self.together.divided(owners, estimate)

    def _estimates(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, float]]:
        seeds = [derive_key("likelihood", self.config.seed, list(ids), len(rest)) for ids, rest in pairs]
        return log_likelihoods(self.denoiser, pairs, seeds, self.config.mc_samples, self.config.batch_size)
