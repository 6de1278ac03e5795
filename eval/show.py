"""Shows in the terminal how a response is unmasked, step by step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dllm_env.denoisers.load import load_denoiser
from dllm_env.dynamics import Wishes, given_by
from dllm_env.errors import UsageError
from dllm_env.policies.learned import load_policy
from dllm_env.policies.rollout import rollout
from dllm_env.rules import Rules
from dllm_env.tasks.base import Problem, Split
from dllm_env.tasks.load import load_task


@dataclass(frozen=True)
class GenerationConfig(Rules):
    """What to generate, the rules of the process first."""

    policy: str = "threshold:0.9"
    """Heuristic with its parameter, or folder of a learned policy."""
    task: str = "trace"
    """Task that the problem is from; also gives the default response length."""
    index: int = 0
    """Which problem of the task."""
    split: Split = "test"
    """Which problems: train, validation, test."""
    prompt: str = ""
    """A prompt of your own instead of a task's problem, for example "a 6 b +2 c -2 d *3 g 3 h -2 i *7 j +1"."""
    template: str = ""
    """What the response begins with, [[3]] for three masks in it, for example "b [[1]] so c [[1]]"."""
    denoiser: str = "tiny"
    """Bundled denoiser or folder of one."""
    device: str = ""
    """Where denoiser and policy run, for example cuda; by default as for dllm-env eval."""
    seed: int = 0
    """Of the problem and of everything random."""
    data: str = ""
    """File or folder with a benchmark's problems; without it, they come from the Hugging Face Hub."""
    allow_code_execution: bool = False
    """Let tasks that are judged by running programs run what the denoiser writes, in a sandbox."""


@dataclass(frozen=True)
class Generation:
    """A response and how it came about.

    Attributes:
        prompt: the text shown to the denoiser.
        tokens: L words, an empty one where the response was cut off.
        revealed_at: the step (from 0) that wrote each token; −1 where none did (masked still, given, or filled in
            after an end-of-text).
        text: the response up to end-of-text.
        nfe, steps: denoiser evaluations and steps.
        correct: right or wrong, None for a prompt that no task judges.
        given: positions that were given.
    """

    prompt: str
    tokens: list[str]
    revealed_at: list[int]
    text: str
    nfe: int
    steps: int
    correct: bool | None
    given: Sequence[int] = ()


def make_generation(config: GenerationConfig) -> Generation:
    """Generates one response.

    Raises:
        UsageError: unknown names, or settings that do not fit, before the denoiser is called.
    """
    task = load_task(config.task, config.data, config.allow_code_execution)
    Rules.of(config).resolve(task.response_length)  # what does not fit is refused before anything large is read
    if config.prompt.strip() and config.data:
        raise UsageError("a prompt of your own leaves no use for --data; leave one of them away")
    if config.index < 0:
        raise UsageError(f"--index must be at least 0, got {config.index}")
    denoiser = load_denoiser(config.denoiser, config.device or None)
    rules = Rules.of(config).resolve(task.response_length, denoiser.attention_block)
    policy = load_policy(config.policy, denoiser.device)
    problem: Problem | None = None
    prompt = config.prompt.strip()
    if not prompt:
        problem = task.problem(config.index, config.split, config.seed)
        prompt = problem.prompt
    ids, template = denoiser.encode(prompt), config.template or (problem.template if problem else "")
    given = given_by(denoiser, [template], rules.response_length)
    wishes, width = Wishes(given=given), task.prompt_length
    result = rollout(denoiser, policy, rules, [ids], [config.seed], prompt_length=width, wishes=wishes)
    response = result.responses[0].tolist()
    text = denoiser.response_text(response)
    finished = bool(result.finished[0])
    return Generation(
        prompt=prompt,
        tokens=["" if token == denoiser.mask_id else denoiser.decode([token]) for token in response],
        revealed_at=result.revealed_at[0].tolist(),
        text=text,
        nfe=int(result.nfe[0]),
        steps=int(result.steps[0]),
        correct=None if problem is None else finished and task.score(problem, text) == 1.0,
        given=[] if given is None else (given[0] != denoiser.mask_id).nonzero()[:, 0].tolist(),
    )


def reveal_steps(generation: Generation) -> list[int]:
    """The steps that revealed something, in order."""
    return sorted({step for step in generation.revealed_at if step >= 0})


def step_colour(step: int, steps: Sequence[int]) -> str:
    """From blue for the first step that revealed something, over green, to red for the last."""
    share = steps.index(step) / max(len(steps) - 1, 1)
    early, middle, late = (80, 150, 255), (90, 210, 120), (255, 100, 80)
    start, end, part = (early, middle, 2 * share) if share < 0.5 else (middle, late, 2 * share - 1)
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(start, end, strict=True))
    return f"rgb({red},{green},{blue})"


def frame(generation: Generation, step: int | None, mask: str = "·") -> Text:
    """The response after this step (after the last one for None): tokens in their steps' colours, masks dim."""
    steps = reveal_steps(generation)
    shown = Text()
    for i, (token, at) in enumerate(zip(generation.tokens, generation.revealed_at, strict=True)):
        if i:
            shown.append(" ")
        if at >= 0 and (step is None or at <= step):
            shown.append(token, style=("bold " if at == step else "") + step_colour(at, steps))
        elif token and (step is None or i in generation.given):  # given, or filled in after an end-of-text
            shown.append(token, style="dim")
        else:
            shown.append(mask, style="dim")
    return shown


def show(generation: Generation, console: Console, animate: bool = True, seconds: float = 4.0) -> None:
    """Shows all steps and then what came out.

    Args:
        generation: what to show.
        console: where; its colours and animation are off by themselves where it is no terminal.
        animate: one picture that changes, instead of a line for each step.
        seconds: how long the animation takes.
    """
    mask = "·" if console.encoding.startswith("utf") else "_"
    steps = reveal_steps(generation)
    console.print(Text.assemble(("prompt    ", "bold"), generation.prompt), soft_wrap=True)
    if animate and console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            for step in steps:
                live.update(Text(f"step {step + 1:<4} ").append(frame(generation, step, mask)), refresh=True)
                time.sleep(min(seconds / len(steps), 0.5))
            live.update(Text(""), refresh=True)
    else:
        for step in steps:
            line = Text(f"step {step + 1:<5}", style="dim")
            console.print(Text().append(line).append(frame(generation, step, mask)), soft_wrap=True)
    console.print(Text.assemble(("response  ", "bold"), frame(generation, None, mask)), soft_wrap=True)
    console.print(Text.assemble(("answer    ", "bold"), generation.text), soft_wrap=True)
    judged = {None: "", True: ", right", False: ", wrong"}[generation.correct]
    console.print(f"{generation.nfe} NFE, {generation.steps} steps{judged}", highlight=False)
