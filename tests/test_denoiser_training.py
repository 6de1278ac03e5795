"""Training of the bundled denoiser, at toy size."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from damage import COMMON, Damage, config, drop, edit, weights
from logs import assert_logged_once
from safetensors.torch import load_file

from dllm_env.denoisers.load import load_denoiser
from dllm_env.denoisers.sedd import SEDDDenoiser
from dllm_env.denoisers.tiny import MASK, WORDS, TinyConfig, TinyDenoiser, TinyTransformer
from dllm_env.errors import UsageError
from dllm_env.random import torch_generator
from dllm_env.tasks.trace import Trace
from dllm_env.train.denoiser import DenoiserTraining, Stage, begin_with, orthogonalize, train_denoiser
from dllm_env.train.examples import RECIPES, Pattern, make_examples, mask_weights
from dllm_env.train.families import SEDDFamily, make_family

WEIGHTS = "model.safetensors"
TRACE = RECIPES["tiny"][1][0]
TOY = DenoiserTraining(
    width=16,
    layers=1,
    heads=2,
    first_updates=14,
    second_updates=10,
    third_updates=6,
    warmup=3,
    examples=100,
    evaluate_every=10,
    save_every=4,
)


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished toy run."""
    folder = tmp_path_factory.mktemp("run") / "toy"
    assert train_denoiser(TOY, folder) == folder / "denoiser"
    return folder


def test_loss_falls(run: Path) -> None:
    """Means over ten updates each; the untrained head gives all words the same chance."""
    with (run / "logs" / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for task in ("trace", "trace4", "sudoku"):
        losses = [float(row[f"loss/{task}"]) for row in rows]
        assert losses[0] > losses[1] > losses[2], (task, losses)
        assert losses[2] < 0.95 * losses[0], (task, losses)
    assert all(0 <= float(row["value_accuracy/trace"]) <= 1 for row in rows)


def test_the_result_loads_as_a_denoiser(run: Path) -> None:
    denoiser = load_denoiser(run / "denoiser")
    assert (denoiser.hidden_size, denoiser.vocabulary) == (16, len(WORDS))
    assert list(load_file(run / "denoiser" / WEIGHTS))


@pytest.mark.parametrize("killed_at", [10, 22])
def test_kill_and_resume_give_the_same_weights(run: Path, tmp_path: Path, killed_at: int) -> None:
    """Killed in the first and in the second stage, two updates after the last checkpoint."""
    folder = tmp_path / "again"
    train_denoiser(TOY, folder, stop_after=killed_at)
    assert not (folder / "denoiser").exists()
    train_denoiser(TOY, folder, resume=True)
    expected, weights = load_file(run / "denoiser" / WEIGHTS), load_file(folder / "denoiser" / WEIGHTS)
    assert expected.keys() == weights.keys()
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name
    assert_logged_once(run, folder)


def test_a_training_begins_with_the_weights_of_another(run: Path, tmp_path: Path) -> None:
    """Every word that both know has the other's rows, a new word its own; a forward pass knows no difference."""
    words = RECIPES["many"][0]
    network = TinyTransformer(TinyConfig(16, 1, 2, 32), len(words))
    network.initialize(torch_generator(1))
    fresh = network.embedding.weight.clone()
    begin_with(network, words, str(run / "denoiser"))
    other = load_denoiser(run / "denoiser")
    assert isinstance(other, TinyDenoiser)
    tokens = torch.randint(1, len(WORDS), (3, 20), generator=torch_generator(2))
    assert torch.equal(network(tokens, 0), other.network(tokens, 0))
    assert torch.equal(network.head.weight[: len(WORDS)], other.network.head.weight)
    assert torch.equal(network.embedding.weight[len(WORDS) :], fresh[len(WORDS) :])

    settings = replace(TOY, recipe="many", start=str(run / "denoiser"), first_updates=0, second_updates=2)
    made = load_denoiser(train_denoiser(replace(settings, third_updates=0), tmp_path / "many"))
    assert isinstance(made, TinyDenoiser)
    assert made.words == words
    with pytest.raises(UsageError, match="cannot start with 'tiny': it is of shape"):
        train_denoiser(replace(settings, start="tiny"), tmp_path / "wide")
    assert not (tmp_path / "wide").exists() or not list((tmp_path / "wide").glob("*.json"))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit(name: str) -> None:
    """Every word is known, every response fits, and a batch has room for every task at every stage."""
    words, parts = RECIPES[name]
    for part in parts:
        for shuffle in (False, True):
            examples = make_examples(part, 30, "train", 1, shuffle, words)
            assert examples.tokens.shape == (30, part.task.prompt_length + part.length)
            assert examples.tokens.max() < len(words)
        assert part.length >= part.task.response_length or part.task.name in ("sudoku", "choice")
        assert min(part.batch) > 0
    lengths = {"tiny": {40, 16}, "sudoku": {16}, "choice": {20}}.get(name, {40})
    assert {part.length for part in parts if part.name != "trace4"} == lengths


def test_another_seed_gives_other_weights(run: Path, tmp_path: Path) -> None:
    train_denoiser(replace(TOY, seed=2, first_updates=2, second_updates=1, third_updates=1), tmp_path / "other")
    first, second = (load_file(folder / "denoiser" / WEIGHTS) for folder in (run, tmp_path / "other"))
    assert not torch.equal(first["embedding.weight"], second["embedding.weight"])


@pytest.mark.parametrize(
    ("settings", "resume", "message"),
    [
        (replace(TOY, seed=2), True, "cannot resume with another seed: the run has 1, now it is 2"),
        (replace(TOY, layers=2), True, "cannot resume with another layers"),
        (TOY, False, "holds a run already; give --resume"),
    ],
)
def test_a_run_is_not_mixed_with_another(run: Path, settings: DenoiserTraining, resume: bool, message: str) -> None:
    before = load_file(run / "denoiser" / WEIGHTS)
    with pytest.raises(UsageError) as caught:
        train_denoiser(settings, run, resume)
    assert message in str(caught.value)
    after = load_file(run / "denoiser" / WEIGHTS)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_nothing_to_resume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to resume"):
        train_denoiser(TOY, tmp_path / "nothing", resume=True)


@pytest.mark.parametrize(("width", "heads"), [(16, 3), (6, 2), (16, 16)])
def test_a_width_that_does_not_fit_is_refused(tmp_path: Path, width: int, heads: int) -> None:
    with pytest.raises(UsageError, match="even multiple of heads"):
        train_denoiser(replace(TOY, width=width, heads=heads), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", bytes(range(256)) * 4])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    train_denoiser(TOY, tmp_path / "run", stop_after=4)
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match="cannot resume from") as caught:
        train_denoiser(TOY, tmp_path / "run", resume=True)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------- parts


def test_schedule() -> None:
    """100 updates, 10 of warm-up: up to 1, constant to 50, then linear towards 2%."""
    stage = Stage(100, 0.02, 3e-3, shuffle=False, number=0)
    factors = [stage.factor(update, 10) for update in (0, 4, 9, 30, 50, 75, 99)]
    assert factors == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0, 0.51, 0.0396])


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16)])
def test_orthogonalize_against_the_singular_values(shape: tuple[int, int]) -> None:
    """The singular vectors stay, and the values come near 1 (the quintic swings between about 0.7 and 1.2)."""
    matrices = torch.randn(4, *shape, generator=torch_generator(shape), dtype=torch.float64)
    u, before, v = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalize(matrices)
    assert result.shape == matrices.shape
    inside = u.mT @ result @ v.mT
    values = inside.diagonal(dim1=1, dim2=2)
    assert (inside - torch.diag_embed(values)).abs().max() < 1e-9
    well = before / before.norm(dim=1, keepdim=True) > 0.01
    assert ((values[well] > 0.6) & (values[well] < 1.25)).all()
    assert well.float().mean() > 0.9
    assert (u @ torch.diag_embed(values) @ v - result).abs().max() < 1e-9


def test_orthogonalize_does_not_mix_matrices_or_know_scale() -> None:
    matrices = torch.randn(3, 6, 10, generator=torch_generator(4))
    together = orthogonalize(matrices)
    for i in range(3):
        assert torch.allclose(orthogonalize(1000 * matrices[i : i + 1])[0], together[i], atol=1e-4)


def test_uniform_masks() -> None:
    """Rates are exactly 1/B apart, a hidden token weighs 1/max(rate, 0.1), so that its mean is 0.95."""
    batch, length = 100, 400
    weights = mask_weights(torch.zeros(batch, length, dtype=torch.int64), "any", torch_generator(1))
    assert weights.shape == (batch, length)
    largest = weights.max(-1).values
    assert ((weights == 0) | (weights == largest[:, None])).all()
    rates = (1 / largest[(largest > 0) & (largest < 9.999)]).sort().values
    assert len(rates) >= 89
    assert torch.allclose(rates.diff(), torch.tensor(1 / batch), atol=1e-5)
    hidden = (weights > 0).float().mean(-1)
    shown = 1 / largest
    clear = (largest > 0) & (largest < 9.999)
    assert ((hidden - shown)[clear].abs() < 5 * 0.5 / length**0.5).all()
    assert weights.mean().item() == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("pattern", ["left", "right"])
def test_ordered_masks(pattern: Pattern) -> None:
    """45% uniform, 25% from a position on (4, then 0.5), 30% values only; 20,000 rows, five standard errors."""
    rows = make_examples(TRACE, 200, "train", 0, True).tokens[:, -40:].long().repeat(100, 1)
    weights = mask_weights(rows, pattern, torch_generator(2))
    if pattern == "right":  # seen in a mirror, it is the other
        rows, weights = rows.flip(-1), weights.flip(-1)
    digits = torch.tensor([word.isdigit() for word in WORDS])[rows]
    suffix = (weights == 4.0).sum(-1) == 1
    start = (weights == 4.0).int().argmax(-1, keepdim=True)
    position = torch.arange(40)
    expected = 0.5 * (position > start) + 4.0 * (position == start)
    suffix &= (weights == expected).all(-1)
    assert suffix.float().mean().item() == pytest.approx(0.25, abs=0.016)
    assert start[suffix].float().mean().item() == pytest.approx(19.5, abs=0.9)
    hidden = weights > 0
    count = digits.sum(-1).float()
    # With a rate t ~ U(0, 1), none of n tokens is hidden with probability E(1 − t)^n = 1/(n + 1).
    other = ~suffix & (hidden & ~digits).any(-1)
    assert other.float().mean().item() == pytest.approx(0.45 * (1 - 1 / (41 - count)).mean().item(), abs=0.018)
    only_digits = ~suffix & ~other & hidden.any(-1)
    from_values = 0.30 * (1 - 1 / (count + 1))
    from_uniform = 0.45 * (1 / (41 - count) - 1 / 41)
    assert only_digits.float().mean().item() == pytest.approx((from_values + from_uniform).mean().item(), abs=0.018)


def test_examples_hold_prompt_and_padded_response() -> None:
    task = Trace()
    examples = make_examples(TRACE, 20, "train", 5, True)
    assert examples.tokens.shape == (20, 64)
    assert examples.tokens.dtype == torch.uint8
    assert (examples.length, examples.pattern) == (40, "left")
    for i, row in enumerate(examples.tokens.tolist()):
        words = [WORDS[token] for token in row]
        problem = task.problem(i, "train", 5)
        prompt, response = words[:24], words[24:]
        assert [word for word in prompt if word != "<pad>"] == problem.prompt.split()
        assert prompt == sorted(prompt, key=lambda word: word != "<pad>")
        end = response.index("<eot>") if "<eot>" in response else 40
        assert set(response[end:]) <= {"<eot>"}
        assert task.score(problem, " ".join(response[:end])) == 1.0


# ----------------------------------------------------------------------------------------- bad files


DAMAGES: dict[str, Damage] = {
    **COMMON,
    "missing weight": drop("head.weight"),
    "weights are missing": lambda f: weights(f).unlink(),
    "configuration is missing": lambda f: config(f).unlink(),
    "no words": edit(lambda c: c.pop("words")),
    "no mask token": edit(lambda c: c["words"].__setitem__(1, "?")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_denoisers_are_refused_in_one_line(run: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "denoiser"
    folder.mkdir()
    for path in (run / "denoiser").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    DAMAGES[damage](folder)
    with pytest.raises(UsageError) as caught:
        load_denoiser(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_denoiser_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown denoiser 'huge'"):
        load_denoiser("huge")


# ------------------------------------------------------------------------------------------------- SEDD


def test_the_loss_of_a_score_model_is_its_score_entropy() -> None:
    """σ'(t) · Σ over masked positions of [Σ_y s − r log s(x₀) + r (log r − 1)], r = 1/(e^σ − 1), times t."""
    words, length = tuple(WORDS), 6
    family = make_family("sedd", words, TinyConfig(width=16, layers=1, heads=2))
    assert isinstance(family, SEDDFamily)
    family.initialize(torch_generator("sedd"))
    with torch.no_grad():
        for weight in family.network.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch_generator("noise", weight.shape)))
    tokens = torch.randint(3, len(words), (1, 4 + length), generator=torch_generator("tokens"))
    shown = tokens.clone()
    masked = torch.tensor([[False] * 4 + [True, False, True, True, False, False]])
    shown[masked] = words.index(MASK)
    with torch.no_grad():
        features = family.features(shown, length)
        found = family.losses(features[masked[:, 4:]], tokens[masked])
    share, noise = 0.5, 1 - 1e-3
    sigma, slope = -math.log(1 - noise * share), noise / (1 - noise * share)
    ratio = 1 / (math.exp(sigma) - 1)
    seen = tokens.masked_fill(masked, len(words))
    with torch.no_grad():
        out = family.network.head(family.network(seen, torch.tensor([sigma]), length)[0])[:, :-1].double()
    scores = out.exp() * ratio / len(words)
    own = scores.gather(1, tokens[0, 4:, None])[:, 0]
    entropy = slope * (scores.sum(-1) - ratio * own.log() + ratio * (math.log(ratio) - 1))
    expected = share * entropy[masked[0, 4:]]
    assert torch.allclose(found.double(), expected, atol=1e-4)


def test_a_score_model_is_trained_resumed_and_read_again(tmp_path: Path) -> None:
    settings = replace(TOY, family="sedd", recipe="trace")
    whole = train_denoiser(settings, tmp_path / "whole")
    train_denoiser(settings, tmp_path / "stopped", stop_after=3)
    train_denoiser(settings, tmp_path / "stopped", resume=True)
    one, two = (load_file(tmp_path / run / "denoiser" / "model.safetensors") for run in ("whole", "stopped"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    denoiser = load_denoiser(whole)
    assert isinstance(denoiser, SEDDDenoiser)
    problem = Trace().problem(0, "test")
    ids = denoiser.encode(problem.prompt)
    assert ids == [WORDS.index(word) for word in problem.prompt.split()]
    assert denoiser.text(ids) == problem.prompt
    with pytest.raises(UsageError, match="leave start away"):
        replace(settings, start="tiny")
    with pytest.raises(UsageError, match="told no time anyway"):
        replace(TOY, timed=False)
    timeless = load_denoiser(train_denoiser(replace(settings, timed=False), tmp_path / "timeless"))
    assert isinstance(timeless, SEDDDenoiser)
    tokens = torch.full((1, 6), timeless.mask_id)
    assert timeless.sigma(tokens, 6).item() == 0
    assert denoiser.sigma(tokens, 6).item() == pytest.approx(-math.log(1e-3), rel=1e-3)


def test_a_network_of_zeros_is_normalised() -> None:
    family = make_family("sedd", WORDS, TinyConfig(width=16, layers=1, heads=2))
    family.initialize(torch_generator("sedd"))
    target = torch.tensor([3, 4])
    loss = family.losses(torch.randn(2, 16, generator=torch_generator("features")), target)
    assert loss.tolist() == pytest.approx([math.log(len(WORDS))] * 2, rel=1e-5)
