"""4×4 Sudokus: every confident cell is right."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations, product

from dllm_env.errors import UsageError
from dllm_env.tasks.base import Problem, Split, draw

BLANK = "."


@functools.cache
def _grids() -> tuple[tuple[int, ...], ...]:
    """The 288 complete 4×4 grids, cells row by row."""
    rows = list(permutations((1, 2, 3, 4)))
    grids = []
    for grid_rows in product(rows, repeat=4):
        if any(len(set(column)) < 4 for column in zip(*grid_rows, strict=True)):
            continue
        cells = [cell for row in grid_rows for cell in row]
        if all(len({cells[b], cells[b + 1], cells[b + 4], cells[b + 5]}) == 4 for b in (0, 2, 8, 10)):
            grids.append(tuple(cells))
    return tuple(grids)


@functools.cache
def _grids_with(cell: int, value: int) -> int:
    """The grids with this value in this cell, as a bit set over ``_grids()``."""
    return sum(1 << i for i, grid in enumerate(_grids()) if grid[cell] == value)


def _is_unique(cells: Sequence[int]) -> bool:
    """Whether exactly one grid agrees with the given cells (0 is blank)."""
    left = (1 << len(_grids())) - 1
    for cell, value in enumerate(cells):
        if value:
            left &= _grids_with(cell, value)
    return left.bit_count() == 1


@dataclass(frozen=True)
class Sudoku:
    """Complete a 4×4 Sudoku that has exactly one solution: 16 prompt cells, 16 response cells, row by row.

    Attributes:
        given: the response has the known cells from the start, and only the blanks are to be written (infilling).
    """

    given: bool = False
    prompt_length: int = field(default=16, init=False)
    response_length: int = field(default=16, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.given, bool):
            raise UsageError(f"sudoku: given must be true or false, got {self.given!r}")

    @property
    def name(self) -> str:
        return "sudoku:given=true" if self.given else "sudoku"

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        drawn = draw("sudoku", split, seed, index, self._puzzle)
        if not self.given:
            return drawn
        return replace(drawn, task=self.name, template=drawn.prompt.replace(BLANK, "[[1]]"))

    def _puzzle(self, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        """Blanks up to 5–12 random cells, each only while the solution stays the only one."""
        solution = rng.choice(_grids())
        cells = list(solution)
        blanks = rng.randint(5, 12)
        for cell in rng.sample(range(16), 16):
            if cells.count(0) == blanks:
                break
            cells[cell] = 0
            if not _is_unique(cells):
                cells[cell] = solution[cell]
        prompt = " ".join(str(cell) if cell else BLANK for cell in cells)
        return prompt, tuple(map(str, solution))

    def score(self, problem: Problem, response: str) -> float:
        """By the rules: every row, column and box has 1 to 4, and the given cells are kept."""
        cells = response.split()
        if len(cells) != 16 or not set(cells) <= set("1234"):
            return 0.0
        if any(given not in (BLANK, cell) for given, cell in zip(problem.prompt.split(), cells, strict=True)):
            return 0.0
        return float(tuple(map(int, cells)) in _grids())

    def reference(self, problem: Problem, rng: random.Random, shuffle: bool = True) -> str:
        """The solution (the response is unique, nothing is random)."""
        return " ".join(problem.answer)
