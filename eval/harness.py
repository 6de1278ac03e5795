"""lm-evaluation-harness with a diffusion language model and an unmasking policy: the model ``dllm-env``.

    dllm-env lm-eval --tasks gsm8k --apply_chat_template \\
        --model_args denoiser=GSAI-ML/LLaDA-8B-Instruct,policy=threshold:0.9,block_length=32

In Python ``lm_eval.simple_evaluate(model="dllm-env", …)`` finds it once this module is imported.

Responses are those of ``dllm-env eval``: document i and its repeat r have the random streams that problem i and
sample r have there under the evaluation seed ``seed``. A response that was cut off with masks left is empty here,
because it counts as wrong there. Likelihoods are explained in ``likelihood.py``, prompts in ``harness_prompts.py``.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch

from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import row_seed
from dllm_env.eval.harness_arguments import (
    NAME,
    HarnessConfig,
    check_processes,
    split_arguments,
    with_defaults,
    written_places,
)
from dllm_env.eval.harness_prompts import Prompts, logger
from dllm_env.eval.harness_together import Together, asking
from dllm_env.eval.likelihood import Pair
from dllm_env.eval.results import code_version
from dllm_env.files import write_failure
from dllm_env.locks import locked
from dllm_env.random import derive_key
from dllm_env.reading import reason
from dllm_env.rules import Rules
from dllm_env.world import size_of_world, this_world

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM, CacheHook
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from tqdm import tqdm

    from dllm_env.eval.harness_cache import claim, keep_out
    from dllm_env.eval.harness_player import Played, Player
except ImportError as error:
    raise UsageError(f"this needs the lm-evaluation-harness ({error}): pip install 'dllm-env[eval]'") from None

MAX_GEN_TOKS = 256
"""Tokens to generate where neither a request nor an argument says how many; as for the harness's other models."""

USED = ("until", "max_gen_toks", "do_sample", "temperature")
"""Generation arguments that mean something here."""

_warn_once = functools.cache(logger.warning)


@register_model(NAME)
class HarnessModel(LM):
    """A denoiser and a policy as a language model of the harness.

    Args:
        arguments: see ``HarnessConfig``.

    Raises:
        UsageError: arguments that do not fit, or cannot be loaded.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.config = config = HarnessConfig.parse(arguments)
        self.player = Player(config)
        self.denoiser, self.policy, self.block = self.player.denoiser, self.player.policy, self.player.block
        self.prompts = Prompts(self.denoiser)
        self.tokenizer = self.prompts.tokenizer  # the harness writes down its special tokens
        self._device = self.denoiser.device
        self._played: dict[str, list[Played]] = {}

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> HarnessModel:
        """From ``"denoiser=tiny,policy=threshold:0.9"``."""
        return cls.create_from_arg_obj(split_arguments(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: dict[str, Any] | None = None
    ) -> HarnessModel:
        """From model arguments, which go before what the harness's own flags say."""
        flags = dict(additional_config or {})
        if str(flags.get("device")).startswith("cuda") and (size_of_world() > 1 or not torch.cuda.is_available()):
            del flags["device"]  # the harness's default: there is none, or each process has its own
        return cls(**flags | dict(arg_dict))

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Called where there is a cache of results (``--use_cache``), before anything is asked.

        Raises:
            UsageError: the cache belongs to another model, or to other settings.
        """
        super().set_cache_hook(cache_hook)
        if cache_hook.dbdict is not None:
            info = {name: value for name, value in self.get_model_info().items() if name != "played"}
            info |= {"options": getattr(self.denoiser, "options", ""), "device": self.denoiser.device.type}
            for column in fields(self.config):
                if column.name not in ("denoiser", "policy", "device", "batch_size", "max_batch_size"):
                    info[column.name] = getattr(self.config, column.name)
            try:
                claim(cache_hook.dbdict, {name: str(value) for name, value in info.items()})
            except UsageError:
                raise
            except Exception as error:  # of its database, or of what stands in it
                raise UsageError(
                    f"this cache cannot be read ({reason(error)}); give another --use_cache, or remove its file"
                ) from None

    def get_model_info(self) -> dict[str, Any]:
        """What the harness's results say of the model: versions, and the mean NFE of each task."""
        fingerprint = getattr(self.policy, "fingerprint", str)
        return {
            "policy": self.policy.name,
            "policy_version": fingerprint(),
            "denoiser": self.denoiser.name,
            "denoiser_version": self.denoiser.fingerprint(),
            "code_version": code_version(),
            "played": {task: _summary(rows) for task, rows in self._played.items()},
        }

    # --------------------------------------------------------------------------------------- templates

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as one text; without ``add_generation_prompt`` its last message is left open."""
        return self.prompts.render(chat_history, add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that ``--apply_chat_template`` asks for, used from now on."""
        return self.prompts.choose_template(chat_template) if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        """Stands for the tokenizer and its templates in the harness's cache of requests."""
        return self.prompts.name

    # -------------------------------------------------------------------------------------- generation

    def _play(self, rules: Rules, contexts: Sequence[list[int]], seeds: Sequence[int], bar: Any) -> list[Played]:
        """What the player makes of the contexts, while the bar moves on by as many."""
        begun = bar.n
        return self.player.play(rules, contexts, seeds, lambda done: bar.update(begun + done - bar.n))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Responses to contexts, each up to the first of its stop strings, in their order.

        Requests that want the same length and temperature are played together.
        """
        asked = [self._asked(request.args[1]) for request in requests]
        contexts = [self.prompts.context(request.args[0]) for request in requests]
        contexts = self.prompts.fit(contexts, [rules.response_length for rules, _, _ in asked])
        seeds, texts, everything = self._seeds(requests), [""] * len(requests), []
        drawn: list[int] = []
        groups: dict[Rules, list[int]] = {}
        for i, (rules, _, _) in enumerate(asked):
            groups.setdefault(rules, []).append(i)
        with tqdm(total=len(requests), desc="Generating responses", disable=disable_tqdm) as bar:
            for rules, members in groups.items():
                rows = self._play(rules, [contexts[i] for i in members], [seeds[i] for i in members], bar)
                for i, row in zip(members, rows, strict=True):
                    texts[i] = self._text(row, *asked[i][1:])
                    self._played.setdefault(str(requests[i].task_name), []).append(row)
                if rules.temperature or self.player.watched.drew:
                    drawn += members
                    continue
                for i in members:
                    self.cache_hook.add_partial("generate_until", requests[i].args, texts[i])
                everything += rows
        if drawn and self.cache_hook.dbdict is not None:
            logger.info("%d responses were drawn at random, which the cache does not keep", len(drawn))
            keep_out(self.cache_hook.dbdict, "generate_until", (requests[i].args for i in drawn))
        if everything:
            told = "%s: %d responses, of which %d were cut off; %.2f denoiser evaluations (NFE) for each"
            logger.info(told, self.policy.name, *_summary(everything).values())
        return texts

    def _asked(self, arguments: Mapping[str, Any]) -> tuple[Rules, int, list[str]]:
        """What a request's generation arguments mean: rules, most tokens of a response, and stop strings."""
        given = normalize_gen_kwargs(dict(arguments), self.config.response_length or MAX_GEN_TOKS)
        ignored = [name for name, value in given.items() if name not in USED and value is not None]
        if ignored:
            _warn_once(f"generation arguments that mean nothing here: {', '.join(ignored)}")
        most, block = int(given["max_gen_toks"]), self.block
        length = self.config.response_length or (-(-most // block) * block if block else most)
        temperature = self.config.temperature
        if temperature is None:
            temperature = float(given.get("temperature") or 0.0)  # 0 already where do_sample says no
        return self.player.rules(length, temperature), most, [str(stop) for stop in given["until"] if stop]

    def _text(self, row: Played, most: int, stops: Sequence[str]) -> str:
        """A response's first so many tokens as a text, up to the first stop string; nothing of one cut off."""
        response, finished, _ = row
        text = self.denoiser.response_text(response[:most]) if finished else ""
        return text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))]

    def _seeds(self, requests: Sequence[Instance]) -> list[int]:
        """Those of ``dllm-env eval`` for the problem that is the document, and the sample that is its repeat."""
        seen: Counter[object] = Counter()
        seeds = []
        for place, request in enumerate(requests):
            index = place if request.doc_id is None else request.doc_id
            key = request.task_name, index, request.idx
            sample = request.idx * (request.repeats or 1) + seen[key]
            seeds.append(row_seed(self.config.seed, (index, sample)))
            seen[key] += 1
        return seeds

    # ------------------------------------------------------------------------------------- likelihoods

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Estimated log-likelihood of each continuation, and whether the policy writes it (``_are_written``)."""
        pairs = [self.prompts.pair(*request.args[:2]) for request in requests]
        contexts = self.prompts.fit([ids for ids, _ in pairs], [len(rest) for _, rest in pairs])
        pairs = [(ids, rest) for ids, (_, rest) in zip(contexts, pairs, strict=True)]
        written = self._are_written(pairs, disable_tqdm) if self.config.check_greedy else [False] * len(pairs)
        results = [(0.0, False)] * len(requests)
        for i, value in self._estimates(pairs, disable_tqdm):
            results[i] = value, written[i]
            self.cache_hook.add_partial("loglikelihood", requests[i].args, results[i])
        return results

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Estimated log-likelihood of whole texts.

        A text that does not fit the model's context is scored in consecutive windows, each but the first behind
        half a context of the text before it, and the estimates are added. Each is in expectation a lower bound, so
        perplexities made of them are upper bounds, and not comparable with those of autoregressive models.
        """
        windows = [list(self.prompts.windows(str(request.args[0]))) for request in requests]
        owners = [i for i, some in enumerate(windows) for _ in some]
        totals, left = [0.0] * len(requests), Counter(owners)
        for window, value in self._estimates([pair for some in windows for pair in some], disable_tqdm):
            i = owners[window]
            totals[i] += value
            left[i] -= 1
            if not left[i]:
                self.cache_hook.add_partial("loglikelihood_rolling", requests[i].args, totals[i])
        return totals

    def _estimates(self, pairs: Sequence[Pair], disable_tqdm: bool) -> Iterator[tuple[int, float]]:
        """Which pair, and its estimate. Continuations of one context that are as long share their masks."""
        found = self.player.estimates(pairs)
        yield from tqdm(found, total=len(pairs), desc="Estimating likelihoods", disable=disable_tqdm)

    def _are_written(self, pairs: Sequence[Pair], disable_tqdm: bool) -> list[bool]:
        """Of each continuation, whether the policy writes exactly it at temperature 0.

        It generates just as many tokens, in blocks of the block length where that divides them, else in one; a
        model that attends in blocks as many as fill its blocks, of which the first count.
        """
        wanted: dict[int, dict[tuple[int, ...], list[int]]] = {}
        for ids, rest in pairs:
            wanted.setdefault(len(rest), {})[tuple(ids)] = []
        nothing = wanted.pop(0, {})
        total = sum(map(len, wanted.values()))
        with tqdm(total=total, desc="Generating continuations", disable=disable_tqdm) as bar:
            for length, found in wanted.items():
                if self.denoiser.attention_block:
                    rules = self.player.rules(-(-length // self.block) * self.block, 0.0)
                else:
                    fits = self.block and length % self.block == 0
                    rules = self.player.rules(length, 0.0, self.block if fits else length)
                contexts = [list(ids) for ids in found]
                seeds = [derive_key("greedy", self.config.seed, ids, length) for ids in contexts]
                rows = self._play(rules, contexts, seeds, bar)
                found.update(zip(list(found), (response[:length] for response, _, _ in rows), strict=True))
        wanted[0] = nothing
        return [wanted[len(rest)][tuple(ids)] == list(rest) for ids, rest in pairs]


def _summary(rows: Sequence[Played]) -> dict[str, float]:
    """How many responses, how many of them were cut off, and their mean NFE."""
    cut_off = sum(not finished for _, finished, _ in rows)
    return {"responses": len(rows), "cut_off": cut_off, "mean_nfe": sum(nfe for _, _, nfe in rows) / len(rows)}


def _is_ours(error: BaseException) -> bool:
    """Whether something was raised while this package's code was at work, and not by the harness on its own."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.partition(".")[0] == "dllm_env" for name in frames[1:])


def main(arguments: Sequence[str]) -> int:
    """The harness's own command line, ``lm-eval``, with the model ``dllm-env`` where ``--model`` names none.

    Args:
        arguments: what stands behind ``dllm-env lm-eval``.

    Returns:
        The exit status.

    Of several processes the first one runs it, and the others help its model, see ``harness_together``.

    Raises:
        UsageError: model arguments that do not fit, something that the harness refuses, somebody else writes where
            this would, or several processes for another model.
    """
    words = with_defaults(arguments)
    check_processes(words, size_of_world())
    together = Together(this_world())
    if not together.world.first:
        together.help(Player)
        return 0
    with contextlib.ExitStack() as held:
        held.enter_context(asking(together))
        for folder, name in written_places(words):
            held.enter_context(locked(folder, name=name))
        return _run(words)


def _run(words: Sequence[str]) -> int:
    """The harness's command line, in this process; returns the exit status."""
    before, sys.argv = sys.argv, ["lm-eval", *words]
    try:
        cli_evaluate()
    except SystemExit as stop:
        if stop.code == 2:  # argparse, which has said what is wrong
            return 2
        if stop.code not in (None, 0):
            said = stop.code if isinstance(stop.code, str) else "what it says stands above"
            raise UsageError(f"the lm-evaluation-harness refuses this: {said}") from None
    except UsageError:
        raise
    except Exception as error:
        if _is_ours(error) or write_failure(error):
            raise
        said = reason(error) or type(error).__name__
        raise UsageError(f"the lm-evaluation-harness refuses this ({type(error).__name__}): {said}") from None
    finally:
        sys.argv = before
    return 0
