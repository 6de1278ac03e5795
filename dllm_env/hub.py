"""Whether the Hugging Face Hub answers, so that look-ups without it end at once instead of after many tries."""

from __future__ import annotations

import contextlib
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from dllm_env.errors import UsageError

SECONDS = 3.0
"""To wait for the Hub."""
REMEMBERED = 60.0
"""Seconds for which its answer counts."""

_asked: dict[str, tuple[float, str]] = {}


def silence() -> str:
    """Why the Hub does not answer, in a few words; empty where it does, or where the user has it switched off."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return ""
    when, found = _asked.get(constants.ENDPOINT, (float("-inf"), ""))
    if time.monotonic() - when > REMEMBERED:
        found = _ask(constants.ENDPOINT)
        _asked[constants.ENDPOINT] = (time.monotonic(), found)
    return found


def _ask(endpoint: str) -> str:
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=SECONDS):
            return ""
    except urllib.error.HTTPError:  # it answers
        return ""
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        # Other libraries may know other certificates: let them try.
        return "" if isinstance(why, ssl.SSLError) else f"{endpoint} does not answer: {why}"


@contextlib.contextmanager
def looked_up() -> Iterator[None]:
    """What is looked up on the Hub meanwhile comes from what was downloaded before, if the Hub does not answer.

    Raises:
        UsageError: one that is raised meanwhile; it then says, too, that the Hub does not answer.
    """
    from huggingface_hub import constants

    why = silence()
    places = [constants, getattr(sys.modules.get("datasets"), "config", None)] if why else []
    changed = [place for place in places if place is not None and not getattr(place, "HF_HUB_OFFLINE", True)]
    for place in changed:
        place.HF_HUB_OFFLINE = True  # type: ignore[union-attr]
    try:
        yield
    except UsageError as error:
        if not why:
            raise
        raise UsageError(f"{str(error).rstrip('.')}; {why}") from None
    finally:
        for place in changed:
            place.HF_HUB_OFFLINE = False  # type: ignore[union-attr]
