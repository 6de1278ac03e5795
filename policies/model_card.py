"""The model card of a learned policy, made of plain facts.

It says how the policy is built, how to use it, how accurate and fast it is, and how it was trained.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

import dllm_env
from dllm_env.tasks.load import load_task

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
    name = name or policy.name
    training = policy.training
    parts = [_introduction(policy, name), _usage(name, training), _results(training, results), _settings(training)]
    data = ModelCardData(library_name="dllm-env", tags=list(TAGS))
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, parts)) + "\n")


def _introduction(policy: PolicyFacts, name: str) -> str:
    largest = "largest probability" if policy.top == 1 else f"{policy.top} largest probabilities"
    reads = {
        "confidence": f"the {largest} of each position, its mask, and the step: any masked diffusion language "
        "model will do",
        "hidden": "the last hidden states of the language model that it was trained on, and of no other",
    }.get(policy.network, "what its own network reads")
    block = "the active block only, as samplers and serving engines show it"
    sees = block if policy.context == "block" else "the whole response"
    head = policy.head.replace("_", " ")
    return (
        f"# {name}\n\nAn unmasking policy for masked diffusion language models: in each step it chooses which "
        f"masks to replace. One transformer block of {policy.weights:,} weights with a {head} head, trained with "
        f"dllm-env {dllm_env.__version__} after [arXiv 2512.09106]({PAPER}).\n\nIt reads {reads}. It sees {sees}."
    )


def _usage(name: str, training: Mapping[str, Any]) -> str:
    task, denoiser = training.get("task", "trace"), training.get("denoiser", "tiny")
    judged = load_task(task, training.get("data", ""), training.get("allow_code_execution", False))
    length = training.get("response_length") or judged.response_length
    block = training.get("block_length") or length
    flags = {"task": task, "denoiser": denoiser, "response-length": length, "block-length": block}
    said = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in flags.items())
    said += " --allow-code-execution" if training.get("allow_code_execution") else ""
    return (
        "## Use\n\n```python\nimport dllm_env\n\n"
        f'answer = dllm_env.generate(model, tokenizer, "…", policy="{name}", gen_length={length}, '
        f"block_length={block})\n```\n\n"
        f"```sh\ndllm-env eval --policies {name} threshold:0.9 {said}\n```"
    )


def _results(training: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        [
            *(str(entry[column]) for column in ("policy", "task", "denoiser", "block_length", "problems")),
            f"{entry['accuracy']:.1%} [{entry['accuracy_low']:.1%}, {entry['accuracy_high']:.1%}]",
            f"{entry['nfe']:.1f}",
        ]
        for entry in results
    ]
    head = ["policy", "task", "denoiser", "block length", "problems", "accuracy (95% interval)", "NFE"]
    validation = training.get("validation", {})
    if not lines and validation:
        count = training.get("validation_problems", "")
        said = [f"{count} validation problems of {training.get('task', 'its task')}"]
        said += [f"{name.replace('_', ' ')} {value:.3g}" for name, value in validation.items()]
        return f"## Results\n\nWhen it was kept, on {', '.join(said)}."
    return f"## Results\n\n{_table(head, lines)}" if lines else ""


def _settings(training: Mapping[str, Any]) -> str:
    shown = [[name, str(value)] for name, value in training.items() if name not in NOT_SETTINGS]
    update = f"Kept at update {training['update']}.\n\n" if "update" in training else ""
    return f"## Training\n\n{update}{_table(['setting', 'value'], shown)}" if shown else ""


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
