"""The one grammar of ``name:key=value``."""

from __future__ import annotations

from dllm_env.errors import UsageError


def parse_settings(text: str) -> dict[str, int | float | str]:
    """``"a=1,b=0.5"`` as a dictionary; numbers become numbers.

    Raises:
        UsageError: a setting without ``=``.
    """
    settings: dict[str, int | float | str] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"cannot read the setting {item!r}; write name=value, separated by commas")
        settings[key.strip()] = parse_number(value.strip())
    return settings


def parse_number(text: str) -> int | float | str:
    """An int where the text is one, else a float, else the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
