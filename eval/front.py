"""The picture of results as a file; see ``dllm_env.front``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dllm_env.eval.compare import Row, scene_titles, scenes
from dllm_env.front import front_figure

FRONT = "front.png"


def draw_front(rows: Sequence[Row], path: Path, title: str = "") -> None:
    """Draws accuracy against NFE with the Pareto fronts of heuristics and of learned policies.

    Args:
        rows: from ``pool``; one panel for each scene among them.
        path: the PNG file to write.
        title: above everything.
    """
    groups = scenes(rows)
    panels = {name: [row.spot for row in group] for name, group in zip(scene_titles(groups), groups, strict=True)}
    front_figure(panels, title).savefig(path)
