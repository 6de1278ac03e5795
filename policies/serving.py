"""Any policy inside serving engines: SGLang, and the first versions of vLLM's dLLM plugin.

Neither has to be installed for this file; docs/plugins.md says how to call each, and what was tested. For newer
versions of the plugin see ``vllm_sampler.py``.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dllm_env.errors import UsageError
from dllm_env.policies.base import Policy
from dllm_env.policies.block_decoder import BlockDecoder
from dllm_env.policies.plugins import check_decoder

# --------------------------------------------------------------------------------------------------- SGLang


class PolicyAlgorithm:
    """An algorithm for SGLang's dLLM framework; ``sglang_algorithm`` makes SGLang's own kind of class of it.

    A block is finished one step after its last mask went: SGLang needs that last call of the model for its cache.
    Requests are told apart by ``forward_batch.rids``; without them every block counts as a response of its own.

    Args:
        config: SGLang's ``DllmConfig``. Its ``algorithm_config``, the file of ``--dllm-algorithm-config``, has
            ``policy`` and ``response_length``, and may have ``temperature``, ``seed`` and ``force_progress``.
        policy: instead of the file's.

    Raises:
        UsageError: settings missing or unknown, or a policy that does not fit the block.
    """

    def __init__(self, config: Any, policy: Policy | str | None = None) -> None:
        settings = _read_settings(config)
        self.block_size, self.mask_id = int(config.block_size), int(config.mask_id)
        self.fdfo = bool(getattr(config, "first_done_first_out_mode", False))
        self.temperature = _number("temperature", settings.pop("temperature", 0.0), float)
        self.decoder = _decoder(settings, policy, self.mask_id)
        self.decoder.check_width(self.block_size)
        self.decoder.remember = 4 * int(getattr(config, "max_running_requests", None) or 256)
        self._nameless = itertools.count()

    def init_step_state(self, forward_batch: Any) -> list[Hashable]:
        """What SGLang keeps of each request during a block: the name by which ``decoder`` knows it."""
        names = getattr(forward_batch, "rids", None)
        return list(names or (f"block {next(self._nameless)}" for _ in range(forward_batch.batch_size)))

    def prepare_inputs(self, model_runner: Any, forward_batch: Any, states: list[Hashable]) -> None:
        """Nothing: the tokens are all that the model reads."""

    def max_steps(self, block_size: int) -> int:
        """Steps after which SGLang gives a block up: with forced progress one a position, and the last call."""
        return block_size + 1 + (0 if self.decoder.force_progress else self.decoder.response_length)

    def step(self, forward_batch: Any, logits_output: Any, states: list[Hashable]) -> list[bool]:
        """Writes the chosen tokens into ``forward_batch.input_ids`` (B·W,) in place.

        Args:
            forward_batch: with ``batch_size`` and ``input_ids``, and in newer versions ``dllm_prompt_mask``, (B, W)
                bool: what is given, even if it is the mask token.
            logits_output: logits (B·W, V), or what holds them as ``full_logits``.
            states: what ``init_step_state`` gave.

        Returns:
            Which blocks were without masks already.

        Raises:
            UsageError: no logits of all positions, or tensors of another size.
        """
        shape = (forward_batch.batch_size, self.block_size)
        tokens = _in_shape("input_ids", forward_batch.input_ids, shape)
        masked, given = tokens == self.mask_id, getattr(forward_batch, "dllm_prompt_mask", None)
        masked = masked if given is None else masked & ~_in_shape("dllm_prompt_mask", given, shape).bool()
        logits = _in_shape("logits", _full_logits(logits_output), shape, "V")
        choice = self.decoder(logits, masked, states, self.temperature)
        forward_batch.input_ids.copy_(torch.where(choice.unmask, choice.token, tokens).view(-1))
        return [not left for left in masked.any(-1).tolist()]


def _read_settings(config: Any) -> dict[str, Any]:
    """The file of ``--dllm-algorithm-config``, without what is SGLang's own."""
    missing = [name for name in ("block_size", "mask_id") if getattr(config, name, None) is None]
    if missing:
        raise UsageError(f"SGLang's configuration has no {' and no '.join(missing)}; give its DllmConfig")
    settings = getattr(config, "algorithm_config", None) or {}
    if not isinstance(settings, Mapping):
        raise UsageError(f"the algorithm's settings are names with values, got {settings!r}")
    return {name: value for name, value in settings.items() if name != "block_size"}


def _full_logits(output: Any) -> Tensor:
    """The logits of all positions out of what SGLang's model gives."""
    logits = output if isinstance(output, Tensor) else getattr(output, "full_logits", None)
    if not isinstance(logits, Tensor):
        raise UsageError(
            "SGLang gave no logits of the block's positions (full_logits is None): its model has to return them, "
            "as its models for --dllm-algorithm do (LogitsProcessor with return_full_logits=True)"
        )
    return logits


def _in_shape(name: str, value: Any, shape: tuple[int, int], last: str = "") -> Tensor:
    """(B·W, …) or (B, W, …) as (B, W, …)."""
    rows, width = shape
    if isinstance(value, Tensor):
        leading = value.shape[: value.ndim - bool(last)]
        if tuple(leading) in ((rows * width,), shape):
            return value.view(*shape, *value.shape[len(leading) :])
    got = tuple(value.shape) if isinstance(value, Tensor) else "nothing" if value is None else type(value).__name__
    expected = f"({rows * width}{', ' + last if last else ','})"
    raise UsageError(f"{name} of {rows} blocks of {width} must be {expected}, got {got}")


def _number(name: str, value: Any, kind: Callable[[Any], float]) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name} must be a number, got {value!r}") from None


def _decoder(settings: dict[str, Any], policy: Policy | str | None, mask_id: int) -> BlockDecoder:
    policy = settings.pop("policy", None) if policy is None else policy
    length, seed = settings.pop("response_length", None), settings.pop("seed", 0)
    force, ends = settings.pop("force_progress", True), settings.pop("end_ids", [])
    if policy is None or length is None or settings:
        wrong = f"got {', '.join(map(str, settings))}" if settings else "policy or response_length is missing"
        raise UsageError(
            f"the algorithm's settings are policy, response_length, temperature, seed, force_progress, end_ids: "
            f"{wrong}"
        )
    if not isinstance(force, bool):
        raise UsageError(f"force_progress must be true or false, got {force!r}")
    if not isinstance(ends, Sequence) or isinstance(ends, str):
        raise UsageError(f"end_ids is a list of the tokens' ids, got {ends!r}")
    length, seed = _number("response_length", length, int), _number("seed", seed, int)
    return BlockDecoder(policy, mask_id, length, seed, force, ends)


def sglang_algorithm() -> type[PolicyAlgorithm]:
    """``PolicyAlgorithm`` as a class of SGLang's, which finds algorithms as files in its own folder::

        # sglang/srt/dllm/algorithm/dllm_env.py
        from dllm_env.policies.serving import sglang_algorithm

        Algorithm = sglang_algorithm()

        # policy.yaml
        policy: /path/of/runs/x        # or threshold:0.9
        response_length: 256

        python -m sglang.launch_server --model-path inclusionAI/LLaDA2.0-mini \\
            --dllm-algorithm PolicyAlgorithm --dllm-algorithm-config policy.yaml

    Raises:
        UsageError: no SGLang with dLLM support is installed.
    """
    try:
        base: Any = importlib.import_module("sglang.srt.dllm.algorithm.base").DllmAlgorithm
    except ImportError:
        raise UsageError("SGLang with diffusion language models is not installed; pip install sglang") from None

    def make(self: PolicyAlgorithm, config: Any) -> None:
        base.__init__(self, config)
        PolicyAlgorithm.__init__(self, config)

    return type("PolicyAlgorithm", (PolicyAlgorithm, base), {"__init__": make, "__doc__": PolicyAlgorithm.__doc__})


def register_sglang() -> None:
    """Makes ``PolicyAlgorithm`` known to SGLang without a file in its folder, as a plugin of SGLang's does.

    SGLang runs what packages declare under the entry point ``sglang.srt.plugins`` in each of its processes.

    Raises:
        UsageError: no SGLang with dLLM support is installed.
    """
    kind = sglang_algorithm()
    importlib.import_module("sglang.srt.dllm.algorithm").algo_name_to_cls[kind.__name__] = kind


# ----------------------------------------------------------------------------------------------------- vLLM


@dataclass(frozen=True)
class StepResult:
    """The answer of a remasking policy, where the plugin with its own ``RemaskStepResult`` is not installed."""

    committed_token_ids: tuple[int, ...]
    """The finished block, or nothing yet."""
    next_input_block: tuple[int, ...]
    """The block that the model reads next: this one with fewer masks, or a new one of masks."""


class PolicyRemasking:
    """A ``RemaskingPolicy`` for vLLM's dllm-plugin, for its versions without a ``DiffusionSampler``.

    ``apply`` is not told which request a block is from. Give ``remasking_config={"request_id": …}``, or use
    ``run_block``, which is told; without either, one object serves one request at a time, with a ``reset`` between.
    The plugin's worker always takes its default policy. Put this one in its place before the engine starts::

        from dllm_plugin import runtime_worker

        remasking = PolicyRemasking(BlockDecoder("runs/x", mask_id=156895, response_length=256))
        runtime_worker.run_block_contract_from_model_output = remasking.run_block

    Args:
        decoder: decides.
        temperature: of the tokens.
    """

    def __init__(self, decoder: BlockDecoder, temperature: float = 0.0) -> None:
        check_decoder(decoder)
        self.decoder, self.temperature = decoder, temperature
        self._result: Any = _result_class()
        self._due: dict[Hashable, tuple[int, ...]] = {}

    def reset(self) -> None:
        """Forgets all requests."""
        self.decoder.reset()
        self._due.clear()

    def apply(
        self,
        *,
        input_draft: Sequence[int],
        logits: Any | None = None,
        remasking_config: Mapping[str, Any] | None = None,
    ) -> Any:
        """One step of one request.

        Args:
            input_draft: W tokens, the block that the model has read.
            logits: (W, V), a tensor or rows of numbers.
            remasking_config: ``request_id`` is used, and ``mask_token_id`` has to be the decoder's.

        Returns:
            The plugin's ``RemaskStepResult``: the block and a new one of masks when it is finished; else nothing
            and the block as it is now.

        Raises:
            UsageError: no logits, another mask token, or a block that does not follow from this request's last.
        """
        config, draft = remasking_config or {}, tuple(int(token) for token in input_draft)
        mask_id, request = self.decoder.mask_id, config.get("request_id")
        if logits is None:
            raise UsageError("logits are missing; apply is for the last pipeline rank")
        if int(config.get("mask_token_id", mask_id)) != mask_id:
            raise UsageError(f"the plugin's mask token is {config['mask_token_id']}, the decoder's {mask_id}")
        self._follow(request, draft)
        scores = torch.as_tensor(logits)[None]
        if scores.ndim != 3 or scores.shape[1] != len(draft):
            raise UsageError(f"logits must be ({len(draft)}, V), got {tuple(scores.shape[1:])}")
        tokens = torch.tensor([draft], device=scores.device)
        choice = self.decoder(scores, tokens == mask_id, [request], self.temperature)
        after = tuple(torch.where(choice.unmask, choice.token, tokens)[0].tolist())
        blank = (mask_id,) * len(after)
        result = self._result(*((), after) if mask_id in after else (after, blank))
        self._due.pop(request, None)
        self._due[request] = result.next_input_block  # now the last of all
        return result

    def run_block(
        self,
        *,
        helper: Any,
        request_id: str,
        input_draft: Sequence[int],
        logits: Any,
        remasking_config: Mapping[str, Any] | None = None,
    ) -> Any:
        """In the place of the plugin's ``run_block_contract_from_model_output``, which names the request."""
        config = {**(remasking_config or {}), "request_id": request_id}
        return helper.run_one_block(
            request_id=request_id, input_draft=input_draft, logits=logits, policy=self, remasking_config=config
        )

    def _follow(self, request: Hashable, draft: tuple[int, ...]) -> None:
        """Sees to it that a block is the one that this request was left with, or a new request's."""
        due = self._due.get(request)
        if due is not None and due != draft:
            if request is None:
                raise UsageError(
                    "the block does not follow from the last one: reset() between requests, or give "
                    'remasking_config={"request_id": …} where several are served'
                )
            self.decoder.reset([request])
        for name in list(self._due)[: max(len(self._due) - self.decoder.remember, 0)]:
            del self._due[name]


def _result_class() -> Any:
    """The plugin's class, if it is installed."""
    try:
        return importlib.import_module("dllm_plugin.remasking.base").RemaskStepResult
    except ImportError:
        return StepResult
