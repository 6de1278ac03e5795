"""The recipe of arXiv 2512.09106 on the bundled denoiser: accuracy and NFE against α, with and without steering.

    python benchmarks/paper_recipe.py --seeds 1 2 3 --updates 60 --out runs/paper

The presets ``paper`` (full diffusion) and ``paper-32`` (blocks) with the paper's values, but for what the denoiser
forces: task and length, blocks of 8, and the number of updates. Where there are fewer updates the learning rate is
higher and the warm-up shorter in proportion, so that weights can move as far. No imitation; the last weights are
played. With steering, one row of each group is the expert's: ``threshold:0.9`` in blocks of 8. What is there
already is not made again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from dllm_env.eval.compare import Entry, pool
from dllm_env.eval.evaluate import EvaluationConfig, prepare
from dllm_env.eval.metrics import mean
from dllm_env.eval.results import read
from dllm_env.eval.runner import play
from dllm_env.files import write_atomically, write_figure
from dllm_env.train.grpo import GRPO
from dllm_env.train.presets import PRESETS
from dllm_env.train.several import train_several

LENGTH = 40
BASES = {40: PRESETS["paper"], 8: PRESETS["paper-32"]}
"""By block length."""
RIVALS = ("threshold:0.9", "threshold:0.7", "threshold:0.5", "threshold:threshold=0.7,fallback=leftmost", "oracle")
TICKS = (4, 6, 10, 15, 20, 30, 40)
COLOURS = ("#0072B2", "#D55E00")


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement."""

    seeds: tuple[int, ...] = (1, 2, 3)
    """Training seeds."""
    alphas: tuple[float, ...] = (10.0, 3.0, 1.0, 0.3, 0.0)
    """Weights of speed; a policy is trained for each."""
    block_length: tuple[int, ...] = (40, 8)
    """Block lengths, 40 or 8."""
    steered: tuple[int, ...] = (0, 1)
    """Rows of a group that are the expert's."""
    updates: int = 60
    """Updates of each training; the paper has 938."""
    prompts: int = 16
    """Prompts of an update, as in the paper."""
    validation: int = 100
    """Validation problems, at the end of each training."""
    problems: int = 500
    """Test problems."""
    workers: int = 2
    """Processes, of one thread each."""
    device: str = "cpu"
    """Where they train and play, such as cuda."""
    out: Path = Path("runs/paper")
    """Folder of the runs and the results."""


@dataclass(frozen=True)
class Training:
    """One of the trainings."""

    block_length: int
    steered: int
    alpha: float
    seed: int

    def folder(self, out: Path) -> Path:
        """Of its run."""
        return out / f"BL{self.block_length}-steered{self.steered}-alpha{self.alpha:g}-seed{self.seed}"

    def settings(self, given: Settings) -> GRPO:
        """The paper's, on the bundled denoiser."""
        base = BASES[self.block_length]
        less = base.updates / given.updates
        return base.changed(
            task="trace",
            denoiser="tiny",
            max_prompt_length=0,
            response_length=LENGTH,
            block_length=self.block_length,
            expert_block_length=8,
            experts=self.steered,
            alpha=self.alpha,
            seed=self.seed,
            updates=given.updates,
            prompts=given.prompts,
            learning_rate=base.optimizer.learning_rate * less,
            warmup=round(base.optimizer.warmup / less),
            evaluate_every=0,
            validation_problems=given.validation,
            device=given.device,
        )


def trainings(given: Settings) -> Iterator[Training]:
    """All of them, one seed after the other."""
    for seed in given.seeds:
        for block in given.block_length:
            for steered in given.steered:
                for alpha in given.alphas:
                    yield Training(block, steered, alpha, seed)


def lines(given: Settings, found: dict[tuple[str, int], Entry]) -> list[dict[str, Any]]:
    """One for each block length, steering and α: means over the seeds, and the least and the largest of them."""
    made = []
    groups: dict[tuple[int, int, float], list[Entry]] = {}
    for one in trainings(given):
        entry = found[str(one.folder(given.out)), one.block_length]
        groups.setdefault((one.block_length, one.steered, one.alpha), []).append(entry)
    for (block, steered, alpha), entries in groups.items():
        line: dict[str, Any] = {"block_length": block, "steered": steered, "alpha": alpha, "seeds": len(entries)}
        for name in ("accuracy", "nfe"):
            values = [float(getattr(entry, name)) for entry in entries]
            line |= {name: mean(values), f"{name}_least": min(values), f"{name}_most": max(values)}
        made.append(line)
    return made


def draw(made: list[dict[str, Any]], rivals: list[Entry], path: Path) -> None:
    """Accuracy against NFE, a panel for each block length, a line over α for each steering, with the rules."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    blocks = list(dict.fromkeys(line["block_length"] for line in made))
    figure = Figure(figsize=(1 + 4.8 * len(blocks), 4.6), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    for axes, block in zip(figure.subplots(1, len(blocks), sharey=True, squeeze=False)[0], blocks, strict=True):
        for steered, marker in ((0, "o"), (1, "s")):
            some = [line for line in made if (line["block_length"], line["steered"]) == (block, steered)]
            if some:
                name = "with steering" if steered else "without steering"
                xs, ys = [line["nfe"] for line in some], [line["accuracy"] for line in some]
                axes.plot(xs, ys, marker=marker, color=COLOURS[steered], label=name)
                for line, x, y in zip(some, xs, ys, strict=True):
                    axes.annotate(
                        f"{line['alpha']:g}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8
                    )
        for entry in (entry for entry in rivals if entry.block_length == block):
            axes.plot([entry.nfe], [entry.accuracy], "P", color="black" if entry.kind == "oracle" else "#888888")
            axes.annotate(entry.label, entry.coordinates, xytext=(4, -10), textcoords="offset points", fontsize=7)
        axes.set_xscale("log")
        axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
        axes.minorticks_off()
        axes.set_title(f"block length {block}", fontsize=11)
        axes.set_xlabel("denoiser evaluations per response (NFE)")
        axes.set_ylabel("accuracy")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
    write_figure(path, figure)


def main(given: Settings) -> None:
    """Trains, plays, prints, and writes ``paper.csv`` and ``paper.png``."""
    train_several([(one.settings(given), one.folder(given.out)) for one in trainings(given)], given.workers)
    results = given.out / "results"
    results.mkdir(parents=True, exist_ok=True)
    plans = [
        (
            EvaluationConfig(
                denoiser=f"tiny:device={given.device}", problems=given.problems, block_length=(block,)
            ),
            [*(str(o.folder(given.out)) for o in trainings(given) if o.block_length == block), *RIVALS],
        )
        for block in given.block_length
    ]
    play(prepare(plans), results, given.workers)
    entries = pool(read([results]))
    made = lines(given, {(entry.policy, entry.block_length): entry for entry in entries})
    table = Table("BL", "steered", "α", "accuracy", "of seeds", "NFE", "of seeds", title=f"{given.updates} updates")
    for line in made:
        spread = f"{line['accuracy_least']:.1%} – {line['accuracy_most']:.1%}"
        table.add_row(
            *(str(line["block_length"]), "yes" if line["steered"] else "no", f"{line['alpha']:g}"),
            *(f"{line['accuracy']:.1%}", spread, f"{line['nfe']:.1f}"),
            f"{line['nfe_least']:.1f} – {line['nfe_most']:.1f}",
        )
    Console(width=100).print(table)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(made[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(made)
    write_atomically(given.out / "paper.csv", text.getvalue().encode())
    draw(made, [entry for entry in entries if not entry.learned], given.out / "paper.png")


if __name__ == "__main__":
    main(tyro.cli(Settings))
