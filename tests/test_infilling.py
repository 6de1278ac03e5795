"""Responses of which something is given: only the masks are written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import MASK, Scripted, favouring, toy_denoiser
from test_dcolt import Watching, policy_for

import dllm_env
from dllm_env.cli import main
from dllm_env.denoisers.load import load_denoiser
from dllm_env.dynamics import Dynamics, Wishes, given_by
from dllm_env.env import EnvConfig, UnmaskEnv
from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import EvaluationConfig, evaluate
from dllm_env.policies.heads import PlackettLuce
from dllm_env.policies.learned import load_policy
from dllm_env.policies.rollout import attempt, rollout, row_seeds
from dllm_env.rules import Rules
from dllm_env.tasks.load import load_task
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.joint import States

SUDOKU = load_task("sudoku:given=true")
PUZZLES = [SUDOKU.problem(i, "test") for i in range(8)]


# ------------------------------------------------------------------------------------------ templates


def test_a_template_is_text_with_masks_in_it() -> None:
    denoiser = Scripted(favouring([3] * 8))
    assert denoiser.encode_template("3 [[2]] 4[[1]]") == [3, MASK, MASK, 4, MASK]
    assert denoiser.encode_template("[[1]] 5", 4) == [MASK, 5, MASK, MASK]
    assert denoiser.encode_template("", 3) == [MASK] * 3
    assert denoiser.encode_template("[[0]] 5") == [5]
    assert given_by(denoiser, ["", ""], 3) is None
    found = given_by(denoiser, ["", "4"], 3)
    assert found is not None
    assert found.tolist() == [[MASK] * 3, [4, MASK, MASK]]


@pytest.mark.parametrize("length", [4, 0])
def test_one_that_is_too_long_is_refused(length: int) -> None:
    for template in ("3 " * 9, "[[9]]", "[[99999999999999]]"):
        with pytest.raises(UsageError, match=f"template .* has more tokens than .*, {length or 8}"):
            Scripted(favouring([3] * 8)).encode_template(template, length)


# ------------------------------------------------------------------------------------------ the process


def test_what_is_given_whole_leaves_nothing_to_do() -> None:
    dynamics = Dynamics(Scripted(favouring([3] * 4)), Rules(4), 0)
    with pytest.raises(UsageError, match="row 1 is given whole"):
        dynamics.reset([[], []], [0, 1], Wishes(given=torch.tensor([[MASK, 3, 3, 3], [3, 3, 3, 3]])))
    with pytest.raises(ValueError, match=r"given must be \(1, 4\)"):
        dynamics.reset([[]], [0], Wishes(given=torch.tensor([[MASK, 3]])))


@pytest.mark.parametrize("block_length", [16, 4])
@pytest.mark.parametrize("policy", ["top_k:1", "threshold:0.7", "remdm:8", "oracle", "mcts:budget=20"])
def test_a_puzzle_keeps_its_cells(policy: str, block_length: int) -> None:
    config = EvaluationConfig(
        task="sudoku:given=true", problems=8, block_length=(block_length,), allow_remask=policy.startswith("remdm")
    )
    (result,) = evaluate(config, [policy])
    for problem, outcome in zip(PUZZLES, result.outcomes, strict=True):
        blanks = [cell == "." for cell in problem.prompt.split()]
        assert [at >= 0 for at in outcome.revealed_at] == blanks
        written = [word for word, blank in zip(outcome.words, blanks, strict=True) if not blank]
        assert written == [cell for cell in problem.prompt.split() if cell != "."]
        if policy == "top_k:1":
            assert outcome.correct == 1.0
            assert outcome.nfe == sum(blanks)


def test_a_row_is_the_same_alone_and_beside_others() -> None:
    denoiser, policy = load_denoiser("tiny"), load_policy("random:2")
    rules, seeds = Rules(16, temperature=1.0), row_seeds(8, "infilling")
    together = attempt(denoiser, policy, rules, SUDOKU, PUZZLES, seeds, batch_size=3)
    for i, problem in enumerate(PUZZLES):
        alone = attempt(denoiser, policy, rules, SUDOKU, [problem], seeds[i : i + 1])
        assert torch.equal(alone.rollout.responses[0], together.rollout.responses[i])


def test_blocks_that_are_given_are_passed_over() -> None:
    dynamics = Dynamics(Scripted(favouring([3, 4, 5, 3, 4, 5])), Rules(6, 2, allow_remask=True), 0)
    state = dynamics.reset([[]], [0], Wishes(given=torch.tensor([[3, 3, MASK, 3, 3, MASK]])))
    dynamics.predict(state)
    assert dynamics.selectable(state).tolist() == [[False, False, True, False, False, False]]
    everything = torch.ones(1, 6, dtype=torch.bool)
    dynamics.apply(state, everything)
    assert dynamics.selectable(state)[0].nonzero().tolist() == [[5]]
    assert not dynamics.remaskable(state).any()  # the last block has nothing but what was given
    dynamics.predict(state)
    dynamics.apply(state, everything, everything)
    assert dynamics.responses(state).tolist() == [[3, 3, 5, 3, 3, 5]]
    assert state.nfe.tolist() == [2]


def test_the_environment_begins_with_what_is_given() -> None:
    env = UnmaskEnv(EnvConfig(task="sudoku:given=true"), render_mode="ansi")
    seen, _ = env.reset(seed=3)
    assert 5 <= seen["masked"].sum() <= 12
    assert env.render()
    *_, done, _, info = env.step(seen["selectable"])
    assert done
    assert info["nfe"] == 1


# ---------------------------------------------------------------------------------------------- training


def test_a_policy_learns_where_something_is_given(tmp_path: Path) -> None:
    settings = GRPO(task="sudoku:given=true", updates=2).changed(
        prompts=2, num_generations=2, start="none", validation_problems=4, evaluate_every=0
    )
    train_grpo(settings, tmp_path / "run")
    (result,) = evaluate(EvaluationConfig(task="sudoku:given=true", problems=4), [str(tmp_path / "run")])
    assert all(outcome.finished for outcome in result.outcomes)


def test_the_denoiser_learns_from_the_states_that_there_were() -> None:
    denoiser = toy_denoiser(Watching)
    templates = ["3 [[3]] 4 [[5]]", "", "[[1]] 5"]
    given = given_by(denoiser, templates, 16)
    prompts = [[3, 4, 5, 6], [7, 8, 9, 10], [4, 4, 4, 4]]
    policy = policy_for(denoiser, PlackettLuce(4))
    played = rollout(
        denoiser, policy, Rules(16, temperature=1.0), prompts, [5, 6, 7], wishes=Wishes(given=given), record=True
    )
    states = States.of(denoiser, prompts, played, templates)
    for step in range(4):
        shown = states.tokens(torch.arange(3), torch.full((3,), step))
        assert torch.equal(shown, denoiser.shown[step][:, -shown.shape[1] :])


# --------------------------------------------------------------------------------------------------- use


def test_generate_fills_in() -> None:
    denoiser = load_denoiser("tiny")
    prompt, template = "a 6 b +2 c -2 d *3 g 3 h -2 i *7 j +1", "b [[1]] so c [[1]]"
    made = dllm_env.generate(denoiser, None, [prompt, prompt], "leftmost:1", gen_length=0, template=template)
    assert made.texts == ["b 8 so c 6"] * 2
    assert made.nfe == [2, 2]
    longer = dllm_env.generate(denoiser, None, prompt, "leftmost:1", 40, 40, template=template)
    assert longer.texts[0].startswith("b 8 so c 6 d 8 ;")
    with pytest.raises(UsageError, match="more tokens than the response length, 4"):
        dllm_env.generate(denoiser, None, prompt, "leftmost:1", 4, 4, template=template)
    with pytest.raises(UsageError, match="at least 1"):
        dllm_env.generate(denoiser, None, prompt, "leftmost:1", 0)


def test_the_command_line_fills_in(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--template", "b [[1]] so c [[1]]", "--response-length", "5", "--policy", "leftmost:1"]
    assert main(["generate", "--prompt", "a 6 b +2 c -2 d *3 g 3 h -2 i *7 j +1", *arguments]) == 0
    said = capsys.readouterr().out
    assert "b 8 so c ·" in said
    assert "answer    b 8 so c 6" in said
