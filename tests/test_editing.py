"""Replacing written tokens: the process by its definition, LLaDA2.1's rule, and policies that learn it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import llada2_logits
from conftest import MASK, Scripted, toy_denoiser
from logs import csv_rows
from make_checkpoint import make_llada2
from pairs import enter
from torch import Tensor

from dllm_env.denoisers.base import Extras
from dllm_env.denoisers.load import load_denoiser
from dllm_env.dynamics import NOT_HELD, Dynamics, Observation, Wishes
from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import Evaluation, EvaluationConfig
from dllm_env.policies.ahead import Ahead
from dllm_env.policies.block_decoder import BlockDecoder
from dllm_env.policies.heads import load_head
from dllm_env.policies.learned import LearnedPolicy, load_policy
from dllm_env.policies.networks import ConfidenceTransformer, NetworkConfig
from dllm_env.policies.rollout import rollout, row_seeds
from dllm_env.random import RowRandom, torch_generator
from dllm_env.rules import Rules, View
from dllm_env.train.dcolt import DCoLT
from dllm_env.train.grpo import GRPO, train_grpo

LENGTH = 6
STRENGTHS = (1.0, 2.0, 0.5, 3.0, 1.5, 2.5)
REWRITE = Extras(rewrite=True)


class Neighbours(Scripted):
    """Wants at each position a token that follows from the one to its left, so that a change changes wishes."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(LENGTH, 6), 2)
        self.hidden_size = 2

    def features(self, tokens: Tensor, last: int) -> Tensor:
        self.rows_per_call.append(len(tokens))
        left = tokens.roll(1, 1)[:, -last:]
        return torch.stack((left, torch.arange(last).expand_as(left)), -1).float()

    def head(self, hidden: Tensor) -> Tensor:
        wanted = 3 + hidden[:, 0].long() % 3
        strength = torch.tensor(STRENGTHS)[hidden[:, 1].long() % LENGTH]
        return torch.nn.functional.one_hot(wanted, 6) * strength[:, None]


def wish(response: list[int], i: int, prompt: int) -> tuple[int, float]:
    """The token that is wanted at a position, and its probability among five."""
    left = response[i - 1] if i else prompt
    best = math.exp(STRENGTHS[i])
    return 3 + left % 3, best / (best + 4)


@dataclass
class Row:
    """One row by the definition, position by position."""

    rules: Rules
    context: str
    prompt: int
    response: list[int]
    given: list[bool] = field(default_factory=list)
    held: int = NOT_HELD
    held_for: int = 0
    step: int = 0
    nfe: int = 0
    edits: int = 0
    stale: bool = True
    seen: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.given = [token != MASK for token in self.response]

    @property
    def block(self) -> range:
        size = self.rules.block_length
        first = self.response.index(MASK) // size * size if MASK in self.response else 0
        return range(self.held, self.held + size) if self.held > NOT_HELD else range(first, first + size)

    @property
    def window(self) -> range:
        return range(LENGTH) if self.context == "full" else self.block

    def editable(self) -> list[bool]:
        return [
            i in self.block and self.response[i] not in (MASK, self.seen[i][0]) and not self.given[i]
            for i in range(LENGTH)
        ]

    def ended(self) -> bool:
        over = MASK not in self.response and self.held == NOT_HELD
        return over or self.step >= (self.rules.max_steps or LENGTH + 2 * (LENGTH // self.rules.block_length + 1))

    def look(self) -> None:
        if self.stale:
            self.nfe, self.stale = self.nfe + 1, False
            self.seen = [wish(self.response, i, self.prompt) for i in range(LENGTH)]

    def play(self, chosen: list[bool]) -> None:
        """What is chosen is revealed where a mask is, and replaced where another token is wanted."""
        block, window, editable, changed = self.block, self.window, self.editable(), False
        for place, i in enumerate(window):
            if chosen[place] and i in block and (self.response[i] == MASK or editable[i]):
                self.edits += editable[i]
                self.response[i], changed = self.seen[i][0], True
        was_held = self.held > NOT_HELD
        full = all(self.response[i] != MASK for i in block)
        self.held_for = self.held_for + 1 if full and was_held else 0
        goes_on = full and changed and self.held_for < 2
        self.held = block.start if goes_on else NOT_HELD
        self.stale = self.stale or changed or (self.context == "block" and was_held and not goes_on)
        self.step += 1


@pytest.mark.parametrize("block_length", [2, 3, 6])
@pytest.mark.parametrize("context", ["full", "block"])
@pytest.mark.parametrize("more", [{}, {"max_steps": 5}], ids=["", "cut"])
@pytest.mark.parametrize("given", [None, [MASK, 4, MASK, MASK, 3, MASK]], ids=["", "given"])
def test_rows_go_as_each_would_by_the_definition(
    block_length: int, context: Any, more: dict[str, int], given: list[int] | None
) -> None:
    coin = random.Random(f"{block_length} {context} {more}")
    rules = Rules(LENGTH, block_length, allow_edit=True, edit_steps=2, **more)
    for density in (0.4, 0.9):
        dynamics = Dynamics(Neighbours(), rules, 2, View(context, 1, REWRITE))
        begin = given or [MASK] * LENGTH
        wishes = Wishes(given=torch.tensor([begin] * 3))
        state = dynamics.reset([[3], [4, 5], [5]], [0, 1, 2], wishes)
        rows = [Row(rules, context, prompt, list(begin)) for prompt in (3, 5, 5)]
        held = 0
        while rows:
            dynamics.predict(state)
            seen = dynamics.observe(state)
            assert seen.editable is not None
            chosen = [[coin.random() < density for _ in range(dynamics.width)] for _ in rows]
            for i, row in enumerate(rows):
                row.look()
                assert seen.editable[i].tolist() == [row.editable()[j] for j in row.window]
                wanted = [row.seen[j][1] if row.editable()[j] else 0.0 for j in row.window]
                assert (seen.rewrite[i] * seen.editable[i]).tolist() == pytest.approx(wanted)  # type: ignore[index]
                row.play(chosen[i])
            action = torch.tensor(chosen)
            dynamics.apply(state, action & seen.selectable, edit=action & seen.editable)
            for name in ("held", "held_for", "step", "nfe", "edits", "stale"):
                assert getattr(state, name).tolist() == [getattr(row, name) for row in rows], name
            assert dynamics.responses(state).tolist() == [row.response for row in rows]
            assert dynamics.block_start(state).tolist() == [row.block.start for row in rows]
            assert dynamics.ended(state).tolist() == [row.ended() for row in rows]
            assert dynamics.terminated(state).tolist() == [row.ended() and MASK not in row.response for row in rows]
            held += sum(row.held > NOT_HELD for row in rows)
            state = state[(~dynamics.ended(state)).nonzero()[:, 0]]
            rows = [row for row in rows if not row.ended()]
        assert held or more or density < 0.5


def published(logits: Any, prompt: list[int], length: int, block: int, mask: int, modes: tuple[float, float, int]):
    """LLaDA2.1's decoding of one row as its paper has it: the response, and how often the model was asked."""
    threshold, edit, after = modes
    begin, whole = len(prompt), -(-(len(prompt) + length) // block) * block
    tokens, asked = prompt + [mask] * (whole - begin), 0
    for start in range(begin // block * block, begin + length, block):
        end, later = start + block, 0
        while True:
            masks = [i for i in range(max(start, begin), min(end, begin + length)) if tokens[i] == mask]
            if not masks:
                later += 1
                if later > after:
                    break
            probability = logits(torch.tensor(tokens[:end])).clone()
            asked += 1
            probability[:, mask] = -torch.inf
            best, token = probability.softmax(-1).max(-1)
            sure = [i for i in masks if best[i] >= threshold]
            if masks and not sure:
                sure = [max(masks, key=lambda i: best[i].item())]
            replaced = [
                i
                for i in range(max(start, begin), min(end, begin + length))
                if tokens[i] not in (mask, int(token[i])) and best[i] > edit
            ]
            if not masks and not replaced:
                break
            for i in [*sure, *replaced]:
                tokens[i] = int(token[i])
    return tokens[begin : begin + length], asked


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llada2(tmp_path_factory.mktemp("editing") / "llada2")


@pytest.mark.parametrize("mode", [(0.7, 0.5, 16), (0.5, 0.0, 3), (0.02, 0.02, 16), (0.03, 0.0, 2)])
def test_joint_threshold_writes_what_the_published_loop_writes(
    mode: tuple[float, float, int], folder: Path
) -> None:
    denoiser, length = load_denoiser(str(folder)), 16
    threshold, edit, after = mode
    policy = load_policy(f"joint_threshold:{threshold},edit={edit}")
    prompts = [denoiser.encode(text) for text in ("a 6 b +2 c -2", "a 1", "g 3 h -2 i *7")]
    rules = Rules(length, allow_edit=True, edit_steps=after)
    played = rollout(denoiser, policy, rules, prompts, [0, 1, 2])
    alone = rollout(denoiser, policy, rules, prompts, [0, 1, 2], batch_size=1)
    plain = rollout(load_denoiser(f"{folder}:cache=0"), policy, rules, prompts, [0, 1, 2])
    for other in (alone, plain):
        assert torch.equal(played.responses, other.responses)
        assert torch.equal(played.nfe, other.nfe)
    total = 0
    for row, prompt in enumerate(prompts):
        by_loop, asked = published(lambda t: llada2_logits(folder, t), prompt, length, 8, denoiser.mask_id, mode)
        assert played.responses[row].tolist() == by_loop
        # What the last look at a block shows of the next one is used only where all of the response is seen.
        assert played.nfe[row] == asked
        total += int(played.edits[row])
    assert total > 0 or edit > 0.1
    assert played.finished.all()


def row_of(confidence: list[float], rewrite: list[float]) -> Observation:
    """Positions with a confidence are masks, those with a rewrite may be replaced."""
    masked = torch.tensor([confidence]) > 0
    return Observation(
        confidence=torch.tensor([confidence])[..., None],
        masked=masked,
        selectable=masked,
        progress=torch.zeros(1),
        masked_total=masked.sum(-1),
        step=torch.zeros(1, dtype=torch.int64),
        rewrite=torch.tensor([rewrite]),
        editable=torch.tensor([rewrite]) > 0,
    )


@pytest.mark.parametrize(
    ("text", "unmask", "edit"),
    [
        ("joint_threshold", [1], [4]),
        ("joint_threshold:0.5,edit=0", [1, 2], [3, 4]),
        ("joint_threshold:0.95", [1], [4]),
        ("joint_threshold:0.5,edit=1", [1, 2], []),
    ],
)
def test_joint_threshold(text: str, unmask: list[int], edit: list[int]) -> None:
    decision = load_policy(text).act(row_of([0, 0.9, 0.6, 0, 0], [0, 0, 0, 0.5, 0.6]), RowRandom(torch.tensor([1])))
    assert decision.unmask[0].nonzero()[:, 0].tolist() == unmask
    assert decision.edit is not None
    assert decision.edit[0].nonzero()[:, 0].tolist() == edit


@pytest.mark.parametrize("head", ["bernoulli", "dynamic_plackett_luce", "plackett_luce:k=2"])
def test_a_learned_policy_reveals_and_replaces(head: str) -> None:
    """One draw over both; what was recorded is scored again as it was."""
    config = NetworkConfig(16, bias=0.0, sight=("place", "rewrite"))
    network = ConfidenceTransformer(config, torch_generator("editing"))
    policy = LearnedPolicy(network.eval(), load_head(head))
    denoiser = toy_denoiser()
    prompts = [denoiser.encode(text) for text in ("a 6 b +2", "a 1 b +3 c *7")]
    rules = Rules(12, 4, allow_edit=True, edit_steps=4)
    played = rollout(denoiser, policy, rules, prompts, row_seeds(2, "editing"), record=True)
    alone = rollout(denoiser, policy, rules, prompts, row_seeds(2, "editing"), batch_size=1)
    assert played.edits.sum() > 0
    assert torch.equal(played.responses, alone.responses)
    steps = played.trajectories
    assert steps is not None
    assert steps.observation.editable is not None
    drawn = steps.draw > 0
    assert not (drawn & ~steps.observation.actionable).any()
    assert (drawn & steps.observation.editable).sum() == played.edits.sum()
    log_prob, entropy = policy.evaluate(steps.observation, steps.draw)
    torch.testing.assert_close(log_prob, steps.log_prob)
    torch.testing.assert_close(entropy, steps.entropy)


def test_grpo_trains_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch)
    settings = GRPO().changed(task="all-a", denoiser="pairs", updates=2, prompts=2, num_generations=4, width=16)
    settings = settings.changed(imitation_steps=0, validation_problems=4, evaluate_every=2)
    settings = settings.changed(allow_edit=True, sight=("place", "rewrite"))
    policy = load_policy(str(train_grpo(settings, tmp_path / "run")))
    assert policy.extras.rewrite
    assert all(float(row["rollout/edits"]) >= 0 for row in csv_rows(tmp_path / "run").values())


def test_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"allow_edit keeps a block open and limit_block_steps ends it"):
        Rules(4, 2, allow_edit=True, limit_block_steps=True)
    with pytest.raises(UsageError, match="add rewrite to sight"):
        GRPO().changed(allow_edit=True)
    with pytest.raises(UsageError, match="probability of a replaced token is not learned"):
        DCoLT().changed(allow_edit=True, sight=("rewrite",), train_denoiser="lora", temperature=1.0)
    with pytest.raises(UsageError, match="replaces written tokens; allow it with --allow-edit"):
        Evaluation(EvaluationConfig(), ["joint_threshold"])
    with pytest.raises(UsageError, match="which engines do not"):
        BlockDecoder("joint_threshold", 1, 4)
    with pytest.raises(UsageError, match="the start joint_threshold replaces written tokens"):
        train_grpo(GRPO().changed(start="joint_threshold"), tmp_path / "run")
    denoiser, rules = toy_denoiser(), Rules(4)
    with pytest.raises(UsageError, match=r"joint_threshold:0.7 replaces written tokens; allow it"):
        rollout(denoiser, load_policy("joint_threshold"), rules, [[10]], [0])
    dynamics = Dynamics(denoiser, rules, 32)
    state = dynamics.reset([[10]], [0])
    dynamics.predict(state)
    with pytest.raises(UsageError, match=r"^this policy replaces written tokens; set allow_edit$"):
        dynamics.apply(state, torch.ones(1, 4).bool(), edit=torch.ones(1, 4).bool())
    blind = Dynamics(denoiser, Rules(4, allow_edit=True), 32)
    state = blind.reset([[10]], [0])
    blind.predict(state)
    assert blind.observe(state).editable is None
    with pytest.raises(UsageError, match="has to read by which"):
        blind.apply(state, torch.ones(1, 4).bool(), edit=torch.ones(1, 4).bool())

    class Looking:
        name, context, top, extras, ahead = "looking", "full", 1, REWRITE, Ahead()

    with pytest.raises(UsageError, match="looks ahead, and cannot replace tokens"):
        rollout(denoiser, Looking(), Rules(4, allow_edit=True), [[10]], [0])  # type: ignore[arg-type]
