"""Writing files so that neither a kill nor a full disk leaves half of one, and saying when writing failed."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Disk full, quota used up, file larger than the limit of the process."""
UNFINISHED = ".tmp"
"""Ends the name of a file that is not in its place yet."""
BROKEN = (errno.EIO, errno.EROFS, errno.ENXIO, errno.ESTALE)
"""Other errors of the place that is written to: no mistake of the program, and nothing that it could do about."""


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that a reader, or a kill, sees the old content or the new, never a part.

    What is no ordinary file, such as ``/dev/stdout``, is written to as it is. Two processes must not write the same
    file at the same time; see ``locks``.

    Raises:
        OSError: it cannot be written; the old content is still there, and nothing else is left behind.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        write_together(Path(), {os.path.realpath(path): data})  # where it is a link, the file that it leads to


def write_figure(path: Path, figure: Any) -> None:
    """Writes a figure of matplotlib as ``write_atomically`` does: SVG or PDF where the name says so, else PNG.

    The same figure gives the same bytes: no date, and no random names within the file. Texts of a PDF stay texts.
    """
    write_atomically(path, drawn(figure, path.suffix.lower().lstrip(".")))


def drawn(figure: Any, kind: str) -> bytes:
    """A figure of matplotlib as ``svg``, ``pdf`` or, whatever else is asked for, ``png``."""
    import matplotlib

    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    written = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "dllm-env", "pdf.fonttype": 42}):
        kind = kind if kind in dates else "png"
        figure.savefig(written, format=kind, metadata=dates.get(kind))
    return written.getvalue()


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files that belong together, as ``write_atomically`` does; all are there before the first is replaced.

    Args:
        folder: where.
        files: contents by name.

    Raises:
        OSError: one of them cannot be written; the old contents are still there.
    """
    temporary = {folder / (name + UNFINISHED): folder / name for name in files}
    try:
        for new, data in zip(temporary, files.values(), strict=True):
            try:
                new.write_bytes(data)
            except OSError as error:
                raise named(error, temporary[new]) from None
    except BaseException:
        for new in temporary:  # on a full disk, their room is needed
            new.unlink(missing_ok=True)
        raise
    for new, path in temporary.items():  # what an interruption leaves here still belongs to what is in its place
        new.replace(path)


def named(error: OSError, path: Path) -> OSError:
    """The error with the name of the file, which errors of writing lack."""
    return OSError(error.errno, error.strerror or str(error), str(path))


def write_failure(error: BaseException, folder: Path | None = None) -> str:
    """What to tell the user of an error that is about where files are written; empty for any other.

    Args:
        error: any.
        folder: what is being written, where the error does not name the file itself.
    """
    if not isinstance(error, OSError) or error.errno not in (*NO_ROOM, *BROKEN):
        return ""
    where = error.filename or folder or f"the output, or to {tempfile.gettempdir()}"
    room = "; make room" if error.errno in NO_ROOM else ""
    return f"cannot write to {where}: {os.strerror(error.errno)}{room}"
