"""The environment for Gymnasium: one row of the process.

``Game`` holds everything that this environment and the vector environment have in common (loading, spaces, how
episodes are drawn, observations, outcomes), so that row i of the one cannot differ from the other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dllm_env.denoisers.base import Denoiser, Extras
from dllm_env.denoisers.load import load_denoiser
from dllm_env.dynamics import NOT_HELD, Dynamics, State, Wishes, given_by
from dllm_env.errors import UsageError
from dllm_env.rendering import Drawing, as_picture, as_text
from dllm_env.rewards import Cost, Outcomes, Reward, check_range, load_rewards
from dllm_env.rules import Context, Rules, View
from dllm_env.tasks.base import SPLITS, Problem, Split, Task, count_problems
from dllm_env.tasks.load import load_task
from dllm_env.tasks.mixture import Mixture

Arrays = dict[str, np.ndarray]

PROBLEMS = 1 << 31
"""Episodes draw the index of their problem from [0, PROBLEMS), of a task with an end from what it has."""

RENDER_MODES = ("ansi", "human", "rgb_array")
"""A text, the text printed after every reset and step, or a picture."""

PROCESS = os.getpid()
"""Where this module was loaded; another number in a process that was forked from there."""

EXTRAS = ("entropy", "margin", "hidden", "token", "ends", "rewrite")
"""The optional features that an environment can show."""
TRIES = 1000
"""So many problems in a row with too long a prompt are an error."""
DRAWS = 100 * TRIES
"""So many draws of problems with too long a prompt are an error."""
LENGTHS = ("response_length", "block_length")
"""Settings that may also be None, which is their default."""


def _extras(names: Sequence[str]) -> Extras:
    """What the denoiser is asked for; ends come with the tokens."""
    wanted = {"token" if name == "ends" else name for name in names}
    return Extras(**dict.fromkeys(wanted, True))


@dataclass(frozen=True)
class EnvConfig(Rules):
    """Arguments of ``gymnasium.make("dllm_env/Unmask-v0", ...)`` and ``make_vec``, the rules of the process first.

    Raises:
        UsageError: a value of the wrong kind.

    Examples:
        >>> config = EnvConfig(task="trace:chains=4", alpha=1.0)
        >>> EnvConfig.build(config, {"split": "test"}).split
        'test'
    """

    denoiser: str | Path | Denoiser = "tiny"
    """Bundled name, path of a folder, class in a file, or a denoiser."""
    task: str | Task = "trace"
    """Name with settings, such as ``trace:chains=4`` or ``gsm8k``, a class in a file, or a task."""
    split: Split = "train"
    """Which problems: train, validation or test."""
    seed: int = 0
    """Which family of problems; the index of a problem is drawn within it."""
    alpha: float = 0.1
    """Weight of speed in the rewards that are given by name."""
    reward: str | Reward | Sequence[str | Reward] = "multiplicative"
    """multiplicative, additive, a function, one in a file (see ``rewards``), or several of these."""
    reward_weights: Sequence[float] = ()
    """A weight for each reward; without any, all count 1."""
    cost: Cost = "nfe"
    """What rewards by name count: denoiser evaluations (nfe), or steps."""
    preferences: Sequence[float] = ()
    """Smallest and largest α: each episode draws its own in between, log-uniform, which is observed as
    ``preference`` and takes the place of alpha; ``reset(options={"alpha": …})`` chooses it."""
    context: Context = "full"
    """What is observed and acted upon: the whole response (full) or its active block (block)."""
    top: int = 1
    """p, how many of a position's largest probabilities are observed."""
    extras: Sequence[str] = ()
    """More keys of the observation: any of entropy, margin, hidden; token, the ids of predicted tokens; ends, which
    of them end a text; rewrite, how probable another token is where one is written."""
    max_prompt_length: int = 0
    """Leave out problems whose prompts have more tokens; 0 takes all."""
    data: str = ""
    """File or folder with a benchmark's problems; without it, they come from the Hugging Face Hub."""
    allow_code_execution: bool = False
    """Let benchmarks of code run the programs that the denoiser writes, see the documentation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.allow_remask or self.remask_budget:
            raise UsageError("an action here puts nothing back to mask; leave allow_remask and its budget away")
        if self.edit_steps and not self.allow_edit:
            raise UsageError("edit_steps are those of allow_edit; give both, or leave edit_steps away")
        if self.split not in SPLITS:
            raise UsageError(f"unknown split {self.split!r}; choose one of {', '.join(SPLITS)}")
        if isinstance(self.extras, str) or not set(self.extras) <= set(EXTRAS):
            raise UsageError(f"extras must be a list of names out of {', '.join(EXTRAS)}, got {self.extras!r}")
        check_range(self.preferences)
        if self.max_prompt_length < 0:
            raise UsageError(f"max_prompt_length must be at least 1, or 0 for all, got {self.max_prompt_length}")

    @classmethod
    def build(cls, config: EnvConfig | None, settings: dict[str, Any]) -> EnvConfig:
        """The config (the defaults if None) with some fields changed.

        Raises:
            UsageError: a setting that does not exist.
        """
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise UsageError(f"the environment has no argument {name!r}; it has {', '.join(known)}")
        given: dict[str, Any] = {
            name: 0 if value is None and name in LENGTHS else value for name, value in settings.items()
        }
        return replace(config or cls(), **given)


@dataclass(frozen=True)
class Episode:
    """What an episode is.

    Attributes:
        problem, prompt: the problem, and its prompt as token ids.
        seed: of the tokens drawn at temperature > 0.
        alpha: how much speed counts; None for what the rewards say.
        left_out: how many problems were drawn before its own whose prompts are too long.
    """

    problem: Problem
    prompt: list[int]
    seed: int
    alpha: float | None = None
    left_out: int = 0


@dataclass(frozen=True)
class Chosen:
    """What ``reset`` is told of an episode; None leaves it to chance.

    Attributes:
        problem: index of the problem.
        alpha: how much speed counts.

    Raises:
        UsageError: values that cannot be.
    """

    problem: int | None = None
    alpha: float | None = None

    def __post_init__(self) -> None:
        alpha = self.alpha
        if alpha is None:
            return
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float, np.number)) or not 0 <= alpha < math.inf:
            raise UsageError(f"alpha must be a finite number of at least 0, got {alpha!r}")


CHANCE = Chosen()


def prompt_width(denoiser: Denoiser, task: Task, split: Split = "train", samples: int = 256) -> int:
    """P for the prompts of a task: the task's own, or where the denoiser makes more tokens of them, what it takes.

    There it is an eighth more than the longest of the first prompts; of a task with an end, of its longest texts.
    """
    if isinstance(task, Mixture):
        return max(prompt_width(denoiser, part, split, samples) for part in task.parts)
    size = count_problems(task, split)
    prompts = [task.problem(i, split).prompt for i in range(samples if size is None else size)]
    prompts = sorted(prompts, key=len)[-samples:]
    longest = max(len(denoiser.encode(prompt)) for prompt in prompts)
    return task.prompt_length if longest <= task.prompt_length else longest + longest // 8


def next_short(task: Task, denoiser: Denoiser, longest: int, split: Split, seed: int, start: int = 0) -> int:
    """Index of the first problem, from ``start`` on, whose prompt has at most ``longest`` tokens.

    Raises:
        UsageError: none of ``TRIES`` has.
    """
    for index in range(start, start + TRIES):
        if len(denoiser.encode(task.problem(index, split, seed).prompt)) <= longest:
            return index
    raise _none_short(f"{TRIES:,} {split} problems", task, longest)


def _none_short(among: str, task: Task, longest: int) -> UsageError:
    return UsageError(
        f"among {among} of {task.name} none has a prompt of at most {longest} tokens; raise max_prompt_length"
    )


@dataclass
class StepResult:
    """Which rows an action has ended, and what they earned.

    Attributes:
        terminated, truncated: (B,) bool.
        rewards: (B,) float64, 0 for rows that go on.
        infos: of the ended rows, by row; their ``nfe`` does not hold the final observation's prediction, which
            no generation needs.
    """

    terminated: np.ndarray
    truncated: np.ndarray
    rewards: np.ndarray
    infos: dict[int, dict[str, Any]]


class Game:
    """What a config names, loaded and checked. Holds no rows itself.

    Raises:
        UsageError: anything in the config that cannot work, before the first step.
    """

    def __init__(self, config: EnvConfig, render_mode: str | None = None) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise UsageError(f"unknown render mode {render_mode!r}; choose {', '.join(RENDER_MODES)} or None")
        if os.getpid() != PROCESS:
            # Forked, as by AsyncVectorEnv: the threads stayed with the parent, torch would wait for them for ever.
            torch.set_num_threads(1)
        self.config = config
        self.render_mode = render_mode
        self.task = load_task(config.task, config.data, config.allow_code_execution)
        if not isinstance(self.task, Task):
            raise UsageError(f"{config.task!r} is not a task; give a name or an object with problem and score")
        self.rewards = load_rewards(config.reward, config.reward_weights, config.alpha, config.cost)
        rules = Rules.of(config)
        rules.resolve(self.task.response_length)  # what does not fit is refused before anything large is read
        shown = (*config.extras, "rewrite") if config.allow_edit else config.extras
        self.view = View(config.context, int(config.top), _extras(shown))
        self.denoiser = load_denoiser(config.denoiser)
        self.rules = rules.resolve(self.task.response_length, self.denoiser.attention_block)
        if config.top >= self.denoiser.vocabulary:
            raise UsageError(f"top must be below the size of the vocabulary, {self.denoiser.vocabulary}")
        width = prompt_width(self.denoiser, self.task, config.split)
        self.dynamics = Dynamics(self.denoiser, self.rules, width, self.view)
        self.problems = count_problems(self.task, config.split) or PROBLEMS
        if config.max_prompt_length:
            next_short(self.task, self.denoiser, config.max_prompt_length, config.split, config.seed)
        self.dynamics.reset([self._episode(0, 0).prompt], [0])
        self.observation_space = self._observation_space()
        self.action_space = spaces.MultiBinary(self.dynamics.width)

    def _observation_space(self) -> spaces.Dict:
        """Boxes are flat, position by position: Stable-Baselines3 takes other shapes for pictures."""
        width, rules, view, size = self.dynamics.width, self.rules, self.view, np.finfo(np.float32).max

        def box(low: float, high: float, length: int) -> spaces.Box:
            return spaces.Box(np.float32(low), np.float32(high), (length,), np.float32)

        progress = np.float32(rules.step_limit) / np.float32(rules.response_length)
        parts: dict[str, spaces.Space[Any]] = {
            "confidence": box(0, 1, width * view.top),
            "masked": spaces.MultiBinary(width),
            "selectable": spaces.MultiBinary(width),
            "progress": box(0, max(1.0, progress), 1),
        }
        if view.extras.entropy:
            parts["entropy"] = box(0, np.log(self.denoiser.vocabulary), width)
        if view.extras.margin:
            parts["margin"] = box(0, 1, width)
        if view.extras.hidden:
            parts["hidden"] = box(-size, size, width * self.denoiser.hidden_size)
        if "token" in self.config.extras:
            parts["token"] = box(0, self.denoiser.vocabulary, width)
        if "ends" in self.config.extras:
            parts["ends"] = spaces.MultiBinary(width)
        if view.extras.rewrite:
            parts["rewrite"] = box(0, 1, width)
        if rules.allow_edit:
            parts["editable"] = spaces.MultiBinary(width)
        if self.config.preferences:
            parts["preference"] = box(0, size, 1)
        return spaces.Dict(parts)

    def _episode(self, index: int, seed: int, alpha: float | None = None, left_out: int = 0) -> Episode:
        problem = self.task.problem(index, self.config.split, self.config.seed)
        return Episode(problem, self.denoiser.encode(problem.prompt), seed, alpha, left_out)

    def _drawn(self, random: np.random.Generator) -> tuple[int, int]:
        """Index of a problem whose prompt is not too long, all equally probable, and the draws in vain."""
        longest = self.config.max_prompt_length
        for left_out in range(DRAWS):
            index = int(random.integers(self.problems))
            if not longest or len(self._episode(index, 0).prompt) <= longest:
                return index, left_out
        raise _none_short(f"{DRAWS:,} {self.config.split} problems that were drawn", self.task, longest)

    def draw(self, random: np.random.Generator, chosen: Chosen = CHANCE) -> Episode:
        """The next episode of a row; the generator moves on equally whatever is chosen."""
        (drawn, left_out), seed = self._drawn(random), int(random.integers(1 << 62))
        alpha = chosen.alpha
        if self.config.preferences:
            low, high = map(math.log, self.config.preferences)
            own = math.exp(low + random.random() * (high - low))
            alpha = own if alpha is None else alpha
        elif alpha is not None:
            raise UsageError("this environment has one alpha; make it with preferences=(0.01, 10) to choose others")
        return self._episode(drawn if chosen.problem is None else chosen.problem, seed, alpha, left_out)

    def begin(self, episodes: Sequence[Episode]) -> State:
        """Rows at their start, not yet predicted."""
        preference = torch.tensor([e.alpha for e in episodes]) if self.config.preferences else None
        templates = [episode.problem.template for episode in episodes]
        wishes = Wishes(preference, given=given_by(self.denoiser, templates, self.rules.response_length))
        return self.dynamics.reset([e.prompt for e in episodes], [e.seed for e in episodes], wishes)

    def actions(self, actions: Any, rows: int) -> Tensor:
        """(B, W) zeros and ones of any kind as a bool tensor.

        Raises:
            UsageError: another shape, or other entries.
        """
        width = self.dynamics.width
        most = width if isinstance(actions, Ranks) else 1
        return torch.from_numpy(entries(actions, rows, width, most) > 0).to(self.denoiser.device)

    def judge(self, state: State, episodes: Sequence[Episode]) -> StepResult:
        """Looks at rows just after an action."""
        terminated, truncated = self.dynamics.terminated(state), self.dynamics.truncated(state)
        infos = self.infos(state, episodes)
        rewards = np.zeros(len(state))
        ended = {}
        for row in (terminated | truncated).nonzero()[:, 0].tolist():
            text = self.denoiser.response_text(self.dynamics.responses(state)[row].tolist())
            correct = self.task.score(episodes[row].problem, text) if terminated[row] else 0.0
            # One row at a time: a vectorised power differs in the last bit from that of a single number.
            one = slice(row, row + 1)
            nfe, steps, length = state.nfe[one].cpu(), state.step[one].cpu(), self.rules.response_length
            alpha = None if state.preference is None else state.preference[one].cpu()
            score = torch.tensor([float(correct)])
            known = Outcomes([episodes[row].problem], [text], score, nfe, steps, length, alpha)
            earned = self.rewards(known)
            rewards[row] = earned.total.item()
            each = {f"rewards/{name}": values.item() for name, values in earned.parts.items()}
            about = {"correct": float(correct), "is_success": correct == 1.0, "response": text}
            ended[row] = {**infos[row], **about, **each}
        return StepResult(terminated.cpu().numpy(), truncated.cpu().numpy(), rewards, ended)

    def infos(self, state: State, episodes: Sequence[Episode]) -> list[dict[str, Any]]:
        """Per row: steps taken, denoiser evaluations, positions asked for in vain, index of the problem."""
        counted = {"nfe": state.nfe, "step": state.step, "ignored": state.ignored}
        if self.rules.allow_edit:
            counted["edits"] = state.edits
        columns = zip(*(values.tolist() for values in counted.values()), strict=True)
        return [
            dict(zip(counted, values, strict=True))
            | {"problem": episode.problem.index}
            | ({"left_out": episode.left_out} if self.config.max_prompt_length else {})
            | ({} if episode.alpha is None else {"alpha": episode.alpha})
            for values, episode in zip(columns, episodes, strict=True)
        ]

    def observe(self, state: State) -> Arrays:
        """Observations of B rows as new arrays; a terminated row needs no prediction, its features are 0."""
        seen = self.dynamics.observe(state)

        def features(values: Tensor) -> np.ndarray:
            shown = values.flatten(2) if values.ndim == 3 else values[..., None]
            return (shown * seen.masked[..., None]).flatten(1).cpu().numpy()

        out = {
            "confidence": features(seen.confidence),
            "masked": seen.masked.to(torch.int8).cpu().numpy(),
            "selectable": seen.selectable.to(torch.int8).cpu().numpy(),
            "progress": seen.progress[:, None].cpu().numpy(),
        }
        for name in self.config.extras:
            out[name] = features(getattr(seen, name)).astype(self.observation_space[name].dtype)
        if seen.rewrite is not None:  # of what is written, where features are of what is masked
            going = ~self.dynamics.terminated(state)[:, None]
            out["rewrite"] = (seen.rewrite * going).cpu().numpy()
            if seen.editable is not None:
                out["editable"] = (seen.editable & going).to(torch.int8).cpu().numpy()
        if seen.preference is not None:
            out["preference"] = seen.preference[:, None].cpu().numpy()
        return {name: out[name].copy() for name in self.observation_space.spaces}

    def drawings(self, state: State, episodes: Sequence[Episode]) -> list[Drawing]:
        """What there is to draw of each row."""
        starts = self.dynamics.block_start(state).tolist()
        held = (state.held > NOT_HELD).tolist()
        rows = zip(self.dynamics.responses(state).tolist(), state.masked.tolist(), starts, held, strict=True)
        drawings = []
        for (ids, masked, start, edited), info, episode in zip(
            rows, self.infos(state, episodes), episodes, strict=True
        ):
            words = ["" if hidden else self.denoiser.decode([i]) for i, hidden in zip(ids, masked, strict=True)]
            end = min(start + self.rules.block_length, len(ids))
            block = range(max(start, 0), end) if edited or any(masked) else range(0)
            status = f"step {info['step']}, {info['nfe']} denoiser evaluations"
            drawings.append(Drawing(episode.problem.prompt, words, masked, block, status))
        return drawings

    def render(self, state: State, episodes: Sequence[Episode]) -> list[str] | list[np.ndarray] | None:
        """A text or a picture per row, or prints the texts, by ``render_mode``."""
        drawings = self.drawings(state, episodes)
        if self.render_mode == "rgb_array":
            return [as_picture(drawing) for drawing in drawings]
        texts = [as_text(drawing) for drawing in drawings]
        if self.render_mode == "ansi":
            return texts
        print(*texts, sep="\n", flush=True)
        return None


class Ranks(np.ndarray):
    """Actions of a policy that says in which order it has drawn: 0 leaves a position masked, 1, 2, … unmask it."""


def entries(actions: Any, rows: int, width: int, most: int = 1) -> np.ndarray:
    """The entries of actions, whole numbers from 0 to ``most`` of any boolean, integer or floating type.

    Args:
        actions: (B, W), or (W,) of one row.
        rows: B.
        width: W.
        most: 1 to say what to unmask, W for ranks.

    Returns:
        (B, W) as they are.

    Raises:
        UsageError: another shape, entries that are no such numbers, or no numbers at all.
    """
    wanted = "0 (leave masked) and 1 (unmask)" if most == 1 else f"whole numbers from 0 to {most}"
    try:
        array = np.asarray(actions.detach().cpu().float() if isinstance(actions, Tensor) else actions)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"an action has the entries {wanted}, got {type(actions).__name__}") from None
    if array.shape != (rows, width) and not (rows == 1 and array.shape == (width,)):
        raise UsageError(f"an action has {width} entries a row, {(rows, width)} in all, got shape {array.shape}")
    if array.dtype.kind not in "biuf":
        raise UsageError(f"an action has the entries {wanted}, got the type {array.dtype}")
    array = np.asarray(array).reshape(rows, width)
    numbers = array.astype(np.int8) if array.dtype.kind == "b" else array
    wrong = (numbers != np.floor(numbers)) | ~((numbers >= 0) & (numbers <= most))  # NaN, which is neither, too
    if wrong.any():
        row, column = (int(place) for place in np.argwhere(wrong)[0])
        raise UsageError(f"an action has the entries {wanted}, got {array[row, column]} in row {row} at {column}")
    return array


def reset_options(options: dict[str, Any] | None) -> tuple[Any, Any]:
    """Problem and α of ``reset(options={"problem": …, "alpha": …})``, None where they are left to chance.

    Raises:
        UsageError: another option.
    """
    given = dict(options or {})
    chosen = given.pop("problem", None), given.pop("alpha", None)
    if given:
        raise UsageError(f"reset has no option {sorted(given)[0]!r}; it has problem (an index) and alpha")
    return chosen


def problem_index(value: Any) -> int | None:
    """A problem's index as given by the user.

    Raises:
        UsageError: not a whole number of at least 0.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise UsageError(f"problem must be a whole number of at least 0, got {value!r}")
    return int(value)


class UnmaskEnv(gymnasium.Env[Arrays, np.ndarray]):
    """One response being unmasked. W positions are seen and acted upon: L, or BL with ``context="block"``.

    Observation: ``confidence`` (W·p,) float32, a position's p probabilities side by side; ``masked`` and
    ``selectable`` (W,) int8; ``progress`` (1,) float32; on request ``entropy`` (W,), ``margin`` (W,) and ``hidden``
    (W·d,) float32; with ``preferences`` the episode's α as ``preference`` (1,) float32. Features are 0 where
    nothing is masked. With ``allow_edit`` ``rewrite`` (W,) float32 and ``editable`` (W,) int8, of what is written.
    Action: (W,), 1 to unmask, or where a position is editable to replace its token. Others are ignored and counted.
    Reward: at the end only. Info: ``nfe``, ``step``, ``ignored``, ``problem``; ``edits`` with ``allow_edit``,
    ``left_out`` with ``max_prompt_length``; at the end ``correct``, ``is_success``, ``response``, and
    ``rewards/NAME`` of each reward.

    Args:
        config: all settings; None for the defaults.
        render_mode: what ``render`` returns: ``"ansi"`` a text, ``"rgb_array"`` a picture (height, width, 3) uint8
            of one size for all episodes; ``"human"`` prints the text after every reset and step; or None.
        settings: fields of ``EnvConfig`` to change.

    Raises:
        UsageError: settings that cannot work.

    Examples:
        >>> env = UnmaskEnv(denoiser="tiny", task="trace", block_length=8)
        >>> observation, info = env.reset(seed=0)
        >>> observation["selectable"].sum().item()
        8
        >>> observation, reward, terminated, truncated, info = env.step(observation["selectable"])
        >>> info["nfe"], info["step"], terminated
        (2, 1, False)
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 4}  # noqa: RUF012

    def __init__(self, config: EnvConfig | None = None, *, render_mode: str | None = None, **settings: Any) -> None:
        self.game = Game(EnvConfig.build(config, settings), render_mode)
        self.render_mode = render_mode
        self.observation_space = self.game.observation_space  # type: ignore[assignment]
        self.action_space = self.game.action_space
        self._episode: Episode | None = None
        self._state: State | None = None
        self._ended = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """A new episode; ``options={"problem": index, "alpha": α}`` chooses its problem and its α."""
        problem, alpha = reset_options(options)
        chosen = Chosen(problem_index(problem), alpha)
        super().reset(seed=seed)
        self._episode, self._ended = self.game.draw(self.np_random, chosen), False
        self._state = self.game.begin([self._episode])
        self.game.dynamics.predict(self._state)
        if self.render_mode == "human":
            self.render()
        return self._observation(self._state), self.game.infos(self._state, [self._episode])[0]

    def step(self, action: np.ndarray) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Unmasks the positions that are 1 in ``action`` (W,), or replaces their tokens where they are editable."""
        if self._state is None or self._episode is None or self._ended:
            raise gymnasium.error.ResetNeeded("the episode is over; call reset first")
        game, state, episodes = self.game, self._state, [self._episode]
        game.dynamics.take(state, game.actions(action, 1))
        result = game.judge(state, episodes)
        terminated, truncated = bool(result.terminated[0]), bool(result.truncated[0])
        self._ended = terminated or truncated
        seen = state[torch.arange(1, device=state.step.device)] if truncated else state
        if not terminated:
            game.dynamics.predict(seen)
        if self.render_mode == "human":
            self.render()
        info = result.infos[0] if self._ended else game.infos(state, episodes)[0]
        return self._observation(seen), float(result.rewards[0]), terminated, truncated, info

    def _observation(self, state: State) -> Arrays:
        return {name: values[0].copy() for name, values in self.game.observe(state).items()}

    def render(self) -> str | np.ndarray | None:
        """The prompt and the partly masked response, as ``render_mode`` says."""
        if self.render_mode is None:
            gymnasium.logger.warn('nothing to render; make the environment with render_mode="ansi" or "rgb_array"')
            return None
        if self._state is None or self._episode is None:
            raise gymnasium.error.ResetNeeded("call reset before render")
        drawn = self.game.render(self._state, [self._episode])
        return None if drawn is None else drawn[0]
