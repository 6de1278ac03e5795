"""The model card of a learned policy, made of plain facts.

It says how the policy is built, how to use it, how accurate and fast it is, and how it was trained.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

import dllm_env
from dllm_env import consent
from dllm_env.errors import UsageError
from dllm_env.policies.public import base_names, plain_code, plain_markdown
from dllm_env.specs import split
from dllm_env.tasks.benchmarks import BENCHMARKS
from dllm_env.tasks.load import NAMES, load_task

PAPER = "https://arxiv.org/abs/2512.09106"
TAGS = ["dllm-env", "unmasking-policy", "diffusion-language-model", "reinforcement-learning"]
NOT_SETTINGS = ("validation", "update", "data")


@dataclass(frozen=True)
class PolicyFacts:
    """What a card says of a policy."""

    name: str
    """What results call it."""
    network: str
    """``confidence`` or ``hidden``."""
    head: str
    """Name of the distribution over sets."""
    context: str
    """``block`` or ``full``."""
    top: int
    """How many of the largest probabilities of a position it reads."""
    weights: int
    """Number of its weights."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Settings of its training."""


def model_card(policy: PolicyFacts, name: str = "", results: Sequence[Mapping[str, Any]] = ()) -> ModelCard:
    """The card as Markdown with its metadata.

    Args:
        policy: facts about it.
        name: of the repository on the Hub; by default what results call the policy.
        results: entries of ``results.json`` of an evaluation; those of other policies are shown beside it.
    """
    name = plain_code(name or base_names(policy.name))
    policy = replace(policy, network=base_names(policy.network), head=base_names(policy.head))
    training, results = base_names(policy.training), base_names(results)
    parts = [_introduction(policy, name), _usage(name, training), _results(training, results), _settings(training)]
    data = ModelCardData(library_name="dllm-env", tags=list(TAGS))
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, parts)) + "\n")


def _introduction(policy: PolicyFacts, name: str) -> str:
    largest = "largest probability" if policy.top == 1 else f"{policy.top} largest probabilities"
    reads = {
        "confidence": f"the {largest} of each position, its mask, and the step: any masked diffusion language "
        "model will do",
        "hidden": "the last hidden states of the language model that it was trained on, and of no other",
        "reverse": "the scores of a score model such as SEDD",
    }.get(policy.network, "what its own network reads")
    block = "the active block only, as samplers and serving engines show it"
    sees = block if policy.context == "block" else "the whole response"
    head = plain_markdown(policy.head.replace("_", " "))
    kind = "The reverse process" if policy.network == "reverse" else "One transformer block"
    return (
        f"# {plain_markdown(name)}\n\nAn unmasking policy for masked diffusion language models: in each step it "
        f"chooses which masks to replace. {kind} of {policy.weights:,} weights with a {head} head, "
        f"trained with dllm-env {dllm_env.__version__} after [arXiv 2512.09106]({PAPER}).\n\n"
        f"It reads {reads}. It sees {sees}."
    )


def _usage(name: str, training: Mapping[str, Any]) -> str:
    task, denoiser = training.get("task", "trace"), training.get("denoiser", "tiny")
    length = training.get("response_length") or _response_length(str(task))
    block = training.get("block_length") or length
    flags = {"task": task, "denoiser": denoiser, "response-length": length, "block-length": block}
    said = " ".join(f"--{flag} {shlex.quote(plain_code(value))}" for flag, value in flags.items() if value)
    said += " --allow-code-execution" if training.get("allow_code_execution") else ""
    lengths = f", gen_length={plain_code(length)}, block_length={plain_code(block)}" if length else ""
    return (
        "## Use\n\n```python\nimport dllm_env\n\n"
        f'answer = dllm_env.generate(model, tokenizer, "…", policy={json.dumps(name)}{lengths})\n```\n\n'
        f"```sh\ndllm-env eval --policies {shlex.quote(name)} threshold:0.9 {said}\n```"
    )


def _response_length(task: str) -> int:
    """The task's own; 0 where only code of somebody's, or a program's judge, could say it."""
    kind = BENCHMARKS.get(split(task, NAMES)[0])
    if kind is not None:
        return kind.response_length
    try:
        consent.check_read(task, "the policy")
        return load_task(task).response_length
    except UsageError:
        return 0


def _results(training: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        [
            *(
                plain_markdown(entry[column])
                for column in ("policy", "task", "denoiser", "block_length", "problems")
            ),
            f"{entry['accuracy']:.1%} [{entry['accuracy_low']:.1%}, {entry['accuracy_high']:.1%}]",
            f"{entry['nfe']:.1f}",
        ]
        for entry in results
    ]
    head = ["policy", "task", "denoiser", "block length", "problems", "accuracy (95% interval)", "NFE"]
    validation = training.get("validation", {})
    if not lines and validation:
        count = training.get("validation_problems", "")
        said = [plain_markdown(f"{count} validation problems of {training.get('task', 'its task')}")]
        numbers = {name: value for name, value in validation.items() if isinstance(value, (int, float))}
        said += [f"{plain_markdown(name.replace('_', ' '))} {value:.3g}" for name, value in numbers.items()]
        return f"## Results\n\nWhen it was kept, on {', '.join(said)}."
    return f"## Results\n\n{_table(head, lines)}" if lines else ""


def _settings(training: Mapping[str, Any]) -> str:
    shown = [
        [plain_markdown(name), plain_markdown(value)]
        for name, value in training.items()
        if name not in NOT_SETTINGS
    ]
    update = f"Kept at update {plain_markdown(training['update'])}.\n\n" if "update" in training else ""
    return f"## Training\n\n{update}{_table(['setting', 'value'], shown)}" if shown else ""


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
