"""Attention as a feature, against computations of its own; and the rules that read it, worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import Scripted, favouring
from test_heuristics import observe
from test_huggingface import FAMILIES, PROMPTS, partly_masked

from dllm_env.denoisers.attention import Seen
from dllm_env.denoisers.base import Extras, attending
from dllm_env.denoisers.huggingface import HuggingFaceDenoiser
from dllm_env.denoisers.load import load_denoiser
from dllm_env.denoisers.tiny import TinyDenoiser
from dllm_env.dynamics import Dynamics, Observation
from dllm_env.errors import UsageError
from dllm_env.numerics import rotate, rotation_angles
from dllm_env.policies.block_decoder import BlockDecoder
from dllm_env.policies.dependent import DAPD, DAWN, independent
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import rollout
from dllm_env.random import RowRandom, torch_generator
from dllm_env.rules import Rules, View

ATTENTION = Extras(attention=True)


@pytest.fixture(scope="module", name="loaded")
def _loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, HuggingFaceDenoiser]]:
    root, found = tmp_path_factory.mktemp("checkpoints"), {}
    for family, (make, _) in FAMILIES.items():
        folder = make(root / family)
        denoiser = load_denoiser(folder)
        assert isinstance(denoiser, HuggingFaceDenoiser)
        found[family] = folder, denoiser
    return found


# ------------------------------------------------------------------------------------------- denoisers


def test_how_many_layers_are_looked_at() -> None:
    """Half of them, at most four, at least one."""
    assert [attending(layers) for layers in (1, 2, 3, 4, 8, 9, 32)] == [1, 1, 1, 2, 4, 4, 4]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_model_s_attention_is_that_of_the_published_network(family: str, prompt: str, loaded: dict) -> None:
    """Of two layers the last, the mean over the heads and both directions; rows of a shifted model stand before."""
    folder, denoiser = loaded[family]
    tokens, masked = partly_masked(denoiser, prompt)
    layers: list[torch.Tensor] = []
    FAMILIES[family][1](folder, tokens[0], layers)  # type: ignore[call-arg]
    assert len(layers) == 2
    weights = layers[-1].mean(0)
    rows = weights[-9:-1] if family == "dream" else weights[-8:]
    expected = (rows[:, -8:] + rows[:, -8:].mT) / 2
    got = denoiser.predict(tokens, masked, extras=ATTENTION)
    assert got.attention is not None
    torch.testing.assert_close(got.attention[0], expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(got.attention, got.attention.mT)


@pytest.mark.parametrize("family", FAMILIES)
def test_to_look_changes_nothing(family: str, loaded: dict) -> None:
    """Predictions are bit for bit those without; the model has its own attention again; padding is not seen."""
    _, denoiser = loaded[family]
    before = denoiser.model.config._attn_implementation
    pairs = [partly_masked(denoiser, prompt) for prompt in PROMPTS]
    width = max(tokens.shape[1] for tokens, _ in pairs)
    padded = [
        torch.cat((torch.full((1, width - tokens.shape[1]), denoiser.pad_id), tokens), -1) for tokens, _ in pairs
    ]
    rows, masked = torch.cat(padded), torch.cat([masked for _, masked in pairs])
    plain, seen = denoiser.predict(rows, masked), denoiser.predict(rows, masked, extras=ATTENTION)
    assert torch.equal(plain.confidence, seen.confidence)
    assert plain.attention is None
    assert seen.attention is not None
    for i, (tokens, its) in enumerate(pairs):
        alone = denoiser.predict(tokens, its, extras=ATTENTION)
        torch.testing.assert_close(alone.attention, seen.attention[i : i + 1], rtol=1e-4, atol=1e-6)
    assert denoiser.model.config._attn_implementation == before


def test_any_implementation_shows_the_same(loaded: dict) -> None:
    folder, denoiser = loaded["llada"]
    tokens, masked = partly_masked(denoiser, PROMPTS[0])
    eager = load_denoiser(f"{folder}:attention=eager")
    one, other = (model.predict(tokens, masked, extras=ATTENTION) for model in (denoiser, eager))
    assert torch.equal(one.attention, other.attention)
    torch.testing.assert_close(eager.predict(tokens, masked).confidence, other.confidence, rtol=1e-4, atol=1e-6)


def test_only_the_last_layers_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten layers four, and nothing of them is kept but the sum."""
    from make_checkpoint import make_llada

    denoiser = load_denoiser(make_llada(tmp_path / "deep", layers=10))
    sizes = []

    def counted(self: Seen, *given: object) -> None:
        add(self, *given)  # type: ignore[arg-type]
        sizes.append((self.layers, tuple(self.total.shape)))

    add = Seen.add
    monkeypatch.setattr(Seen, "add", counted)
    tokens, masked = partly_masked(denoiser, PROMPTS[0])  # type: ignore[arg-type]
    denoiser.predict(tokens, masked, extras=ATTENTION)
    assert sizes == [(i, (1, 8, 8)) for i in (1, 2, 3, 4)]


def test_a_layer_by_hand() -> None:
    """Two heads with one of keys: products times 1/2, a hidden key, and the mean of the heads."""
    query = torch.tensor([[[[2.0, 0.0, 0, 0], [0.0, 2.0, 0, 0]], [[0.0, 0.0, 0, 0], [0.0, 0.0, 0, 0]]]])
    key = torch.tensor([[[[math.log(3.0), 0.0, 0, 0], [0.0, math.log(3.0), 0, 0]]]])
    seen = Seen(2, 0)
    seen.add(query, key, None, None)
    assert torch.allclose(seen.total, torch.tensor([[[(0.75 + 0.5) / 2, 0.375], [0.375, 0.625]]]))
    for mask in (torch.tensor([[[[True, False]]]]), torch.tensor([[[[0.0, -1e30]]]])):
        seen = Seen(1, 0)
        seen.add(query, key, mask, 1.0)
        assert torch.equal(seen.total, torch.tensor([[[0.0]]]))
        assert seen.layers == 1


def test_the_bundled_denoiser_s_attention_by_its_parts() -> None:
    """Its last block, of three, from the features before it; prompts of two lengths, one of them padded."""
    denoiser = load_denoiser("tiny")
    assert isinstance(denoiser, TinyDenoiser)
    network, prompt = denoiser.network, denoiser.encode("a 6 b +2 c -2")
    rows = [[denoiser.pad_id] * 4 + prompt[:-4], prompt]
    rows[0] = [denoiser.pad_id] * (len(prompt) - 4) + prompt[:4]
    tokens = torch.tensor([row + [denoiser.mask_id] * 5 + denoiser.encode("b 8 c") for row in rows])
    needed = tokens[:, -8:] == denoiser.mask_id
    got = denoiser.predict(tokens, needed, extras=ATTENTION)
    assert torch.equal(got.confidence, denoiser.predict(tokens, needed).confidence)

    real = tokens != denoiser.pad_id
    rotation = rotation_angles(tokens.shape[1], 32, tokens.device)
    x = network.embedding(tokens) * real[..., None]
    for block in network.blocks[:2]:
        x = block(x, rotation, real, tokens.shape[1])
    block = network.blocks[2]
    h = block.attention_norm(x) * real[..., None]
    h = h + block.convolution(h.transpose(1, 2)).transpose(1, 2)
    query, key, _ = block.query_key_value(h).chunk(3, -1)
    for row in range(2):
        total = torch.zeros(8, 8)
        for head in range(4):
            part = slice(32 * head, 32 * head + 32)
            q, k = block.query_norm(query[row, :, part]), block.key_norm(key[row, :, part])
            q, k = (rotate(y[None, None], rotation)[0, 0] for y in (q, k))
            scores = (q @ k.T / 32**0.5)[:, real[row]].softmax(-1)
            total += scores[-8:, -8:] / 4
        expected = (total + total.T) / 2
        assert got.attention is not None
        torch.testing.assert_close(got.attention[row], expected, rtol=1e-4, atol=1e-6)
    alone = denoiser.predict(tokens[1:], needed[1:], extras=ATTENTION)
    assert alone.attention is not None
    assert torch.equal(alone.attention[0], got.attention[1])


# --------------------------------------------------------------------------------------------- process


class Attending(Scripted):
    """Position i attends to j with (i + 2 j) / 100."""

    def attending_features(self, tokens: torch.Tensor, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        i = torch.arange(last)
        return self.features(tokens, last), ((i[:, None] + 2 * i) / 100).expand(len(tokens), -1, -1)


def test_a_block_sees_its_own_part() -> None:
    """Six positions in blocks of two. The mean of both directions is 3 (i + j) / 200."""
    denoiser = Attending(favouring([4] * 6), 1)
    dynamics = Dynamics(denoiser, Rules(6, 2).resolve(), 1, View("block", 1, ATTENTION))
    state = dynamics.reset([[2]], [0])
    i = torch.arange(6)
    whole = 3 * (i[:, None] + i) / 200
    for block in range(3):
        dynamics.predict(state)
        part = slice(2 * block, 2 * block + 2)
        seen = dynamics.observe(state).attention
        assert seen is not None
        torch.testing.assert_close(seen[0], whole[part, part])
        dynamics.apply(state, torch.ones(1, 2).bool())


def test_who_cannot_show_it_says_so(loaded: dict) -> None:
    tokens, masked = torch.tensor([[2, 1, 1]]), torch.tensor([[True, True]])
    with pytest.raises(UsageError, match="'scripted' cannot say which positions attend to each other"):
        Scripted(favouring([4, 4]), 1).predict(tokens, masked, extras=ATTENTION)
    with pytest.raises(UsageError, match="of two evaluations"):
        load_denoiser("tiny").predict(tokens, masked, extras=Extras(attention=True, support=True))
    with pytest.raises(UsageError, match="reads attention does not work with the prefix cache"):
        Dynamics(loaded["llada"][1], Rules(8, prefix_cache=True).resolve(), 4, View("full", 1, ATTENTION))
    with pytest.raises(UsageError, match=r"'dawn:0\.75' reads attention, which engines do not give"):
        BlockDecoder(load_heuristic("dawn"), 8, 8, 1)


# ---------------------------------------------------------------------------------------------- rules


def attended(confidence: list[float], pairs: dict[tuple[int, int], float], masked: list[int]) -> Observation:
    """One row in which these pairs attend to each other so much, and others not at all."""
    row = observe([confidence], [masked])
    row.attention = torch.zeros(1, len(masked), len(masked))
    for (i, j), weight in pairs.items():
        row.attention[0, i, j] = row.attention[0, j, i] = weight
    return row


def unmask(rule: DAPD, row: Observation) -> list[int]:
    return rule.act(row, RowRandom(torch.tensor([1]))).unmask[0].int().tolist()


def test_independent_sets_by_hand() -> None:
    """A path 0–1–2–3–4: from the highest score down. A position that is no candidate hinders none."""
    path = torch.zeros(5, 5).bool()
    for i in range(4):
        path[i, i + 1] = path[i + 1, i] = True
    for scores, candidates, expected in [
        ([0.5, 0.9, 0.6, 0.7, 0.8], [1, 1, 1, 1, 1], [0, 1, 0, 0, 1]),
        ([0.9, 0.8, 0.7, 0.6, 0.5], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1]),
        ([0.5, 0.9, 0.6, 0.7, 0.8], [1, 0, 1, 1, 0], [1, 0, 0, 1, 0]),
        ([0.5, 0.5, 0.5, 0.5, 0.5], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1]),
        ([0.5, 0.9, 0.6, 0.7, 0.8], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]),
    ]:
        got = independent(torch.tensor([candidates]).bool(), torch.tensor([scores]), path[None])
        assert got[0].int().tolist() == expected


def test_independent_sets_are_so_and_as_large_as_can_be() -> None:
    generator = torch_generator(3)
    for _ in range(20):
        scores = torch.rand(4, 9, generator=generator)
        candidates = torch.rand(4, 9, generator=generator) < 0.7
        edges = torch.rand(4, 9, 9, generator=generator) < 0.2
        edges = (edges | edges.mT) & ~torch.eye(9).bool()
        chosen = independent(candidates, scores, edges)
        assert not (chosen & ~candidates).any()
        assert not (edges & chosen[:, None] & chosen[..., None]).any()
        touched = (edges & chosen[:, None]).any(-1)
        assert (chosen | touched | ~candidates).all()
        assert chosen[torch.arange(4), scores.masked_fill(~candidates, -1).argmax(-1)].tolist() == (
            candidates.any(-1).tolist()
        )


def test_dapd_by_hand() -> None:
    """0.95 is sure; of 0.8 and 0.76, which attend to each other, the first; 0.7 is too little; else the best."""
    rule = DAPD(sink=1.0)
    row = attended([0.95, 0.8, 0.76, 0.7], {(1, 2): 0.07, (0, 1): 0.5}, [1, 1, 1, 1])
    assert unmask(rule, row) == [1, 1, 0, 0]
    assert unmask(DAPD(sink=1.0, edge=0.08), row) == [1, 1, 1, 0]
    assert unmask(DAPD(sink=1.0, threshold=0.7), row) == [1, 1, 0, 1]
    assert unmask(DAPD(sink=1.0, sure=0.75), row) == [1, 1, 1, 0]
    assert unmask(rule, attended([0.4, 0.6, 0.5, 0.3], {}, [1, 1, 1, 1])) == [0, 1, 0, 0]
    assert unmask(DAPD(fallback="leftmost"), attended([0.4, 0.6, 0.5, 0.3], {}, [1, 1, 1, 1])) == [1, 0, 0, 0]


def test_sinks_depend_on_nothing() -> None:
    """Position 1 gets 0.3 from each of three others: 0.225 on average over the four; the others get 0.075."""
    row = attended([0.8, 0.89, 0.8, 0.8], {(0, 1): 0.3, (1, 2): 0.3, (1, 3): 0.3}, [1, 1, 1, 1])
    assert unmask(DAPD(sink=0.23), row) == [0, 1, 0, 0]
    assert unmask(DAPD(sink=0.22), row) == [1, 1, 1, 1]
    # Over masked positions alone: 3 is written, and what 1 gets is (0.3 + 0.3) / 3.
    row = attended([0.8, 0.89, 0.8, 0.0], {(0, 1): 0.3, (1, 2): 0.3, (1, 3): 0.9}, [1, 1, 1, 0])
    assert unmask(DAPD(sink=0.21), row) == [0, 1, 0, 0]
    assert unmask(DAPD(sink=0.19), row) == [1, 1, 1, 0]


def test_dawn_trusts_what_depends_on_sure_tokens() -> None:
    """0 is written with 0.95 and 1 with 0.8 first; then 2, with 0.72, depends on 0, and 3 on 1."""
    rule, random = DAWN(sink=1.0), RowRandom(torch.tensor([1]))
    pairs = {(0, 2): 0.1, (1, 3): 0.1}
    first = rule.act(attended([0.95, 0.8, 0.1, 0.1, 0.1], pairs, [1, 1, 1, 1, 1]), random)
    assert first.unmask[0].int().tolist() == [1, 1, 0, 0, 0]
    row = attended([0.0, 0.0, 0.72, 0.72, 0.1], pairs, [0, 0, 1, 1, 1])
    assert unmask(rule, row) == [0, 0, 1, 0, 0]  # the best alone, where nothing is remembered
    row.memory = dict(first.memory)
    row.confidence[0, 4] = 0.74  # the best, so that 2 comes by its anchor
    assert unmask(rule, row) == [0, 0, 1, 0, 1]
    assert unmask(DAWN(sink=1.0, induced=0.73), row) == [0, 0, 0, 0, 1]
    assert unmask(DAWN(sink=1.0, sure=0.96), row) == [0, 0, 0, 0, 1]
    assert unmask(DAWN(sink=1.0, sure=0.8), row) == [0, 0, 1, 1, 1]
    again = rule.act(row, random)
    assert again.memory["written"][0].tolist() == pytest.approx([0.95, 0.8, 0.72, 0.0, 0.74])


@pytest.mark.parametrize("rule", ["dapd:sink=0.05", "dawn:sink=0.05", "dawn"])
def test_they_write_whole_responses(rule: str) -> None:
    """With every position certain at once nothing is left; on the bundled denoiser rows end."""
    denoiser = load_denoiser("tiny")
    prompt = denoiser.encode("a 6 b +2 c -2 d *3 g 3 h -2 i *7 j *3 k +1 l *3")
    played = rollout(denoiser, load_heuristic(rule), Rules(40).resolve(), [prompt] * 2, [0, 1])
    assert played.finished.all()
    assert (played.nfe < 40).all()
    assert torch.equal(played.responses[0], played.responses[1])


@pytest.mark.parametrize("text", ["dapd:edge=-1", "dapd:threshold=2", "dawn:induced=1.5", "dapd:induced=0.5"])
def test_bad_settings(text: str) -> None:
    with pytest.raises(UsageError, match=r"dapd|dawn"):
        load_heuristic(text)
