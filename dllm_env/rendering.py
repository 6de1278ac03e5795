"""What a row looks like: as text, and as a picture of a size that depends on the response's length alone."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

MASK = "▁"

# Sizes in pixels. Sides come out as multiples of 16, which is what video encoders want.
CELL_WIDTH, LINE = 80, 16
COLUMNS = 8
PROMPT_LINES = 6
FONT_SIZE = 11

BACKGROUND, TEXT, FAINT = (255, 255, 255), (20, 20, 20), (130, 130, 130)
WRITTEN, ACTIVE, WAITING = (226, 240, 217), (255, 221, 150), (224, 224, 224)


@dataclass(frozen=True)
class Drawing:
    """What is shown of a row.

    Attributes:
        prompt: the problem as text.
        words: per position of the response (L) its token as text; of masked ones it is not looked at.
        masked: per position (L) whether it is masked.
        block: positions of the active block; empty when nothing is masked.
        status: one line, what it took so far.
    """

    prompt: str
    words: list[str]
    masked: list[bool]
    block: range
    status: str


def as_text(drawing: Drawing) -> str:
    """The problem, the response with ▁ for masks and the active block in brackets, and the status."""
    words = [MASK if hidden else word for word, hidden in zip(drawing.words, drawing.masked, strict=True)]
    if drawing.block:
        first, last = drawing.block[0], drawing.block[-1]
        words[first] = "[" + words[first]
        words[last] += "]"
    return f"{drawing.prompt}\n{' '.join(words)}\n{drawing.status}\n"


def as_picture(drawing: Drawing) -> np.ndarray:
    """The same as a picture, (height, width, 3) uint8.

    A cell per position, eight in a line: green when written, yellow when masked and in the active block, grey when
    masked and waiting. Prompts and tokens that are too long for their place are cut.
    """
    from PIL import Image, ImageDraw

    lines = -(-len(drawing.words) // COLUMNS)
    size = (COLUMNS * CELL_WIDTH, (PROMPT_LINES + lines + 2) * LINE)
    image = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(image)
    _draw_prompt(draw, drawing.prompt)
    for position, (word, hidden) in enumerate(zip(drawing.words, drawing.masked, strict=True)):
        left, top = position % COLUMNS * CELL_WIDTH, (PROMPT_LINES + position // COLUMNS) * LINE
        colour = WRITTEN if not hidden else ACTIVE if position in drawing.block else WAITING
        draw.rectangle((left, top, left + CELL_WIDTH - 2, top + LINE - 2), fill=colour)
        if not hidden:
            draw.text((left + 3, top + 1), _fit(word, CELL_WIDTH - 6), fill=TEXT, font=_font())
    draw.text((4, size[1] - LINE - LINE // 2), drawing.status, fill=FAINT, font=_font())
    return np.array(image)


def _draw_prompt(draw: ImageDraw.ImageDraw, prompt: str) -> None:
    width = COLUMNS * CELL_WIDTH - 8
    characters = int(width / _font().getlength("m"))
    lines = [part for line in prompt.splitlines() for part in textwrap.wrap(line, characters) or [""]]
    if len(lines) > PROMPT_LINES:
        lines = [*lines[: PROMPT_LINES - 1], lines[PROMPT_LINES - 1] + " …"]
    for number, line in enumerate(lines):
        draw.text((4, number * LINE + 1), _fit(line, width), fill=TEXT, font=_font())


def _fit(text: str, width: int) -> str:
    """One line of at most ``width`` pixels: line breaks become visible, what cannot be printed a dot."""
    shown = "".join(c if c.isprintable() else "↵" if c == "\n" else "·" for c in text[:width])
    if _font().getlength(shown) <= width:
        return shown
    while shown and _font().getlength(shown + "…") > width:
        shown = shown[:-1]
    return shown + "…"


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans Mono, which comes with matplotlib and has most alphabets."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"), FONT_SIZE
    )
