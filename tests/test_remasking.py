"""Putting committed positions back to mask: the dynamics, what supports a token, and the two rules."""

from __future__ import annotations

import pytest
import torch
from conftest import MASK, Scripted, favouring, toy_denoiser

from dllm_env.denoisers.base import Extras
from dllm_env.denoisers.tiny import WORDS, TinyConfig, TinyDenoiser, TinyTransformer
from dllm_env.dynamics import Dynamics, Observation, State
from dllm_env.errors import UsageError
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.remasking import Anchored, ReMDM, Wino
from dllm_env.policies.rollout import Rollout, rollout, row_seeds
from dllm_env.random import RowRandom, torch_generator
from dllm_env.rules import Rules, View
from dllm_env.tasks.trace import Trace

TOKENS = (3, 4, 5, 3)


def begin(**rules: int) -> tuple[Dynamics, State]:
    denoiser = Scripted(favouring(TOKENS))
    dynamics = Dynamics(denoiser, Rules(4, rules.pop("block_length", 4), allow_remask=True, **rules), 0)
    state = dynamics.reset([[]], [0])
    dynamics.predict(state)
    return dynamics, state


def mask(*positions: int, width: int = 4) -> torch.Tensor:
    return torch.tensor([[i in positions for i in range(width)]])


def test_a_position_goes_back_to_mask() -> None:
    dynamics, state = begin()
    dynamics.apply(state, mask(0, 1))
    assert state.stale.tolist() == [True]
    dynamics.predict(state)
    assert dynamics.observe(state).remaskable.tolist() == [[True, True, False, False]]
    dynamics.apply(state, mask(2), mask(1, 3))  # 3 is no committed position
    assert state.tokens.tolist() == [[3, MASK, 5, MASK]]
    assert state.masked.tolist() == [[False, True, False, True]]
    assert state.revealed_at.tolist() == [[0, -1, 1, -1]]
    assert (state.sureness > 0).tolist() == [[True, False, True, False]]
    assert (state.remasks.item(), state.ignored.item(), state.step.item(), state.nfe.item()) == (1, 1, 2, 2)
    assert state.stale.tolist() == [True]


def test_unmask_and_remask_at_one_step_leaves_a_row_unfinished() -> None:
    dynamics, state = begin()
    dynamics.apply(state, mask(0, 1, 2))
    dynamics.apply(state, mask(3), mask(0))
    assert not dynamics.terminated(state).item()
    assert state.tokens.tolist() == [[MASK, 4, 5, 3]]


def test_the_budget_ends_it_from_the_left() -> None:
    dynamics, state = begin(remask_budget=2)
    dynamics.apply(state, mask(0, 1, 2))
    dynamics.apply(state, mask(), mask(0, 1, 2))
    assert state.masked.tolist() == [[True, True, False, True]]
    assert (state.remasks.item(), state.ignored.item()) == (2, 1)
    dynamics.apply(state, mask(0), mask(2))
    assert not state.masked[0, 2]
    assert not dynamics.remaskable(state).any()


def test_only_the_active_block_is_open() -> None:
    dynamics, state = begin(block_length=2)
    dynamics.apply(state, mask(0, 1))
    dynamics.apply(state, mask(2), mask(0))
    assert state.tokens.tolist() == [[3, 4, 5, MASK]]
    assert dynamics.remaskable(state).tolist() == [[False, False, True, False]]
    small = Dynamics(Scripted(favouring(TOKENS)), Rules(4, 2, allow_remask=True), 0, View("block"))
    row = small.reset([[]], [0])
    for unmask, remask in (
        (mask(0, 1, width=2), None),
        (mask(0, width=2), None),
        (mask(1, width=2), mask(0, width=2)),
    ):
        small.predict(row)
        small.apply(row, unmask, remask)
    assert row.masked.tolist() == [[False, False, True, False]]


def test_off_by_default() -> None:
    dynamics = Dynamics(Scripted(favouring(TOKENS)), Rules(4, 4), 0)
    state = dynamics.reset([[]], [0])
    dynamics.predict(state)
    assert dynamics.observe(state).remaskable is None
    assert dynamics.rules.step_limit == 4
    with pytest.raises(UsageError, match="set allow_remask"):
        dynamics.apply(state, mask(0), mask(1))


def test_a_row_that_only_takes_back_is_cut_off() -> None:
    rules = Rules(4, 4, allow_remask=True, remask_budget=3)
    assert (rules.remasks_allowed, rules.step_limit) == (3, 7)
    assert Rules(4, 4, allow_remask=True).step_limit == 8
    with pytest.raises(UsageError, match="remask_budget must be at least 1"):
        Rules(4, 4, allow_remask=True, remask_budget=-1)


# -------------------------------------------------------------------------------------------- support


def network(layers: int, convolution: int) -> TinyDenoiser:
    shape = TinyConfig(width=16, layers=layers, heads=2, feed_forward=32, convolution=convolution)
    model, generator = TinyTransformer(shape, len(WORDS)), torch_generator("shadow", layers)
    model.initialize(generator)
    with torch.no_grad():
        for block in model.blocks:
            block.attention_out.weight.normal_(0, 0.7, generator=generator)
            block.feed_forward_out.weight.normal_(0, 0.7, generator=generator)
        model.head.weight.normal_(0, 0.7, generator=generator)
    return TinyDenoiser(model)


def some_tokens(denoiser: TinyDenoiser, masks: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of 6 tokens, the first two of every other row padding, and responses of 10 with some masks."""
    generator = torch_generator("tokens", masks)
    tokens = torch.randint(3, len(WORDS), (8, 16), generator=generator)
    tokens[::2, :2] = denoiser.pad_id
    masked = torch.rand(8, 10, generator=generator) < masks
    tokens[:, 6:][masked] = denoiser.mask_id
    return tokens, masked


@pytest.mark.parametrize(("layers", "convolution"), [(1, 5), (3, 5), (2, 1)])
def test_a_shadow_of_a_mask_is_the_mask(layers: int, convolution: int) -> None:
    denoiser = network(layers, convolution)
    tokens, masked = some_tokens(denoiser, 0.5)
    plain, shadow = denoiser.shadow_features(tokens, 10)
    torch.testing.assert_close(plain, denoiser.features(tokens, 10))
    torch.testing.assert_close(shadow[masked], plain[masked])
    assert (shadow - plain)[~masked].abs().amax(-1).min() > 1e-3


def test_support_in_one_layer_is_that_of_leaving_the_token_out() -> None:
    """One layer without convolution: other positions cannot carry a token around, so the support is exact."""
    denoiser = network(1, 1)
    tokens, masked = some_tokens(denoiser, 0.3)
    prediction = denoiser.predict(tokens, masked, extras=Extras(support=True), judged=~masked)
    expected = torch.zeros_like(prediction.support)
    for row, position in (~masked).nonzero().tolist():
        hidden = tokens[row : row + 1].clone()
        hidden[0, 6 + position] = denoiser.mask_id
        logits = denoiser.head(denoiser.features(hidden, 10)[0, position : position + 1]).float()
        logits[:, denoiser.mask_id] = -torch.inf
        expected[row, position] = logits.softmax(-1)[0, tokens[row, 6 + position]]
    torch.testing.assert_close(prediction.support, expected)


def test_a_denoiser_that_cannot_judge_says_so() -> None:
    with pytest.raises(UsageError, match="cannot say how well a token is supported"):
        rollout(Scripted(favouring(TOKENS)), Wino(), Rules(4, 4, allow_remask=True), [[]], [0])


# ---------------------------------------------------------------------------------------------- rules


def row(confidence: list[float], support: list[float]) -> Observation:
    """Positions with a support are committed."""
    committed = torch.tensor([support]) > 0
    return Observation(
        confidence=torch.tensor([confidence])[..., None],
        masked=~committed,
        selectable=~committed,
        progress=torch.zeros(1),
        masked_total=(~committed).sum(-1),
        step=torch.zeros(1, dtype=torch.int64),
        support=torch.tensor([support]),
        remaskable=committed,
    )


@pytest.mark.parametrize(
    ("confidence", "support", "unmask", "remask"),
    [
        ([0, 0.7, 0.6, 0.5], [0.95, 0, 0, 0], [1, 2], []),
        ([0, 0.7, 0.6, 0.5], [0.85, 0, 0, 0], [1, 2], [0]),
        ([0, 0.7, 0.6, 0.5], [0.9, 0, 0, 0], [1, 2], []),  # equal is enough
        ([0, 0, 0.5, 0.3], [0.1, 0.2, 0, 0], [2], []),  # one drafted: none goes back, so that it makes progress
        ([0, 0, 0.9, 0.8], [0.2, 0.1, 0, 0], [2, 3], [1]),  # two drafted: one goes back, of least support
    ],
)
def test_wino(confidence: list[float], support: list[float], unmask: list[int], remask: list[int]) -> None:
    decision = Wino().act(row(confidence, support), RowRandom(torch.tensor([1])))
    assert decision.unmask[0].nonzero()[:, 0].tolist() == unmask
    assert decision.remask is not None
    assert decision.remask[0].nonzero()[:, 0].tolist() == remask


def test_remdm_draws_with_the_scheduled_probabilities() -> None:
    """Step 3 of 10, cap 0.05: σ = min(0.05, (1 − 0.4)/0.3), unmask (0.4 − 0.95·0.3)/0.7; the last step ends it."""
    count, rule = 20_000, ReMDM(steps=10, cap=0.05)
    seen = row([0, 0.7, 0.6, 0.5], [0.5, 0, 0, 0])[torch.zeros(count, dtype=torch.int64)]
    outside = torch.ones(count, dtype=torch.int64)
    for step, unmask, remask in ((3, (0.4 - 0.95 * 0.3) / 0.7, 0.05), (9, 1.0, 0.0)):
        seen.memory = {"outside": outside, "step": torch.full((count,), step)}
        decision = rule.act(seen, RowRandom(torch.arange(count)))
        assert decision.remask is not None
        for chosen, expected in ((decision.unmask[:, 1:], unmask), (decision.remask[:, :1], remask)):
            error = chosen.double().mean().item() - expected
            assert abs(error) <= 4 * (expected * (1 - expected) / chosen.numel()) ** 0.5
        assert not decision.unmask[:, 0].any()
        assert not decision.remask[:, 1:].any()
        assert decision.memory["step"].eq(step + 1).all()


@pytest.mark.parametrize(
    ("step", "unmask", "remask"),
    [
        (0, [2], [1]),  # two of five stand: those of 0.9 and 0.7
        (1, [2, 3], [1]),  # three: both are surer than the weak token
        (2, [2, 3], []),  # four: which is surer than the last mask
        (3, [2, 3, 5], []),  # all
        (9, [2, 3, 5], []),
    ],
)
def test_anchored(step: int, unmask: list[int], remask: list[int]) -> None:
    """Of six positions one is no mask and was not written here."""
    seen = row([0, 0, 0.7, 0.3, 0, 0.1], [0.9, 0.2, 0, 0, 0.8, 0])
    seen.remaskable = torch.tensor([[True, True, False, False, False, False]])
    seen.selectable = torch.tensor([[False, False, True, True, False, True]])
    seen.memory = {"outside": torch.ones(1, dtype=torch.int64), "step": torch.tensor([step])}
    decision = Anchored(steps=4).act(seen, RowRandom(torch.tensor([1])))
    assert decision.remask is not None
    assert decision.unmask[0].nonzero()[:, 0].tolist() == unmask
    assert decision.remask[0].nonzero()[:, 0].tolist() == remask


def test_rules_want_remasking_to_be_allowed() -> None:
    for name in ("wino", "remdm", "anchored"):
        with pytest.raises(UsageError, match="puts tokens back to mask; allow it"):
            play(toy_denoiser(), name, allow=False)


def play(denoiser: object, name: str, prompts: object = None, length: int = 20, **rules: object) -> Rollout:
    task = Trace(chains=1)
    assert isinstance(denoiser, TinyDenoiser | Scripted)
    if prompts is None:
        prompts = [denoiser.encode(task.problem(index).prompt) for index in range(12)]
    assert isinstance(prompts, list)
    allow, batch = bool(rules.pop("allow", True)), int(str(rules.pop("batch", 128)))
    settings = Rules(length, allow_remask=allow, **{"block_length": length, **rules})  # type: ignore[arg-type]
    seeds = row_seeds(len(prompts), "remasking")
    return rollout(denoiser, load_heuristic(name), settings, prompts, seeds, batch_size=batch, prompt_length=12)


@pytest.mark.parametrize("block_length", [5, 20])
@pytest.mark.parametrize("name", ["wino:draft=0.3,verify=0.5", "remdm:steps=8,cap=0.3", "anchored:steps=4"])
def test_a_batch_of_one_is_a_batch_of_many(name: str, block_length: int) -> None:
    denoiser = toy_denoiser()
    many = play(denoiser, name, block_length=block_length)
    assert many.finished.all()
    assert many.remasks.sum() > 0
    if name.startswith("remdm"):
        assert many.steps.max() <= 8 * 20 // block_length
    for batch in (1, 5):
        few = play(denoiser, name, block_length=block_length, batch=batch)
        for field in ("responses", "revealed_at", "nfe", "steps", "remasks"):
            assert torch.equal(getattr(few, field), getattr(many, field)), (field, batch)
