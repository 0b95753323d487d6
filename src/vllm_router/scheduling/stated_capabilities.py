"""Parses stated engine capabilities, from a flag or from keys and values of a file. Pure.

    MODEL:verbose_json=no,language=no,max_audio_s=600,max_file_mb=25,containers=wav+mp3+flac

Items are separated by commas; one without a model belongs to the previous model, and a model's name
may contain colons. Every error is a ValueError that says what to write instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Final

from vllm_router.scheduling.capabilities import (
    ALSO_CALLED,
    CONTAINERS,
    LEAST_AUDIO_S,
    LEAST_FILE_BYTES,
    UNKNOWN,
    Capabilities,
)

NAMES: Final = ("verbose_json", "language", "max_audio_s", "max_file_mb", "containers")
#: Some thirty years, and a petabyte: bounds that keep the arithmetic safe.
MOST_AUDIO_S: Final = 1e9
MOST_FILE_MB: Final = 1e9
MOST_NAMES: Final = 100
_MIB: Final = 2**20
_WORDS: Final[Mapping[str, bool]] = {
    "yes": True,
    "true": True,
    "on": True,
    "no": False,
    "false": False,
    "off": False,
}


def read_items(items: Iterable[str]) -> dict[str, Capabilities]:
    """Return the capabilities that a flag states, by model.

    Args:
        items: `MODEL:NAME=VALUE`, or `NAME=VALUE` for the previous model.

    Raises:
        ValueError: One sentence that names the item and what is wrong with it.
    """
    stated: dict[str, dict[str, object]] = {}
    model = ""
    for item in items:
        where, equals, value = item.partition("=")
        named, _, name = where.rpartition(":")
        if not equals or not name:
            raise ValueError(f"'{item}' is not of the form MODEL:NAME=VALUE")
        model = named.strip() or model
        if not model:
            raise ValueError(f"'{item}' names no model; write MODEL:{item}")
        name = name.strip()
        values = stated.setdefault(model, {})
        if name in values:
            raise ValueError(f"'{name}' is stated twice for {model}")
        values[name] = value.strip()
    return {name: read_mapping(values) for name, values in stated.items()}


def read_mapping(values: Mapping[str, object]) -> Capabilities:
    """Return the capabilities that keys and values state.

    Args:
        values: Values by name; booleans and numbers as such or as text, containers as a list or
            as `a+b`.

    Raises:
        ValueError: One sentence that names the value and what is wrong with it.
    """
    stated = UNKNOWN
    for name, value in values.items():
        if name not in NAMES:
            shown = " ".join(name.split())[:50]
            raise ValueError(f"'{shown}' is not a capability; allowed: {', '.join(NAMES)}")
        stated = _one(name, value).beats(stated)
    return stated


def _one(name: str, value: object) -> Capabilities:
    if name == "verbose_json":
        return Capabilities(verbose_json=_truth(name, value))
    if name == "language":
        return Capabilities(language=_truth(name, value))
    if name == "max_audio_s":
        return Capabilities(max_audio_s=_number(name, value, LEAST_AUDIO_S, MOST_AUDIO_S))
    if name == "max_file_mb":
        size_mb = _number(name, value, LEAST_FILE_BYTES / _MIB, MOST_FILE_MB)
        return Capabilities(max_file_bytes=int(size_mb * _MIB))
    return Capabilities(containers=_containers(value))


def _truth(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    known = _WORDS.get(value.lower()) if isinstance(value, str) else None
    if known is None:
        raise ValueError(f"'{name}' should be yes or no")
    return known


def _number(name: str, value: object, least: float, most: float) -> float:
    number = least - 1.0
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
    # NaN and infinities fail this test.
    if not least <= number <= most:
        raise ValueError(f"'{name}' should be a number from {least:g} to {most:g}")
    return number


def _containers(value: object) -> frozenset[str]:
    names: list[object] = []
    if isinstance(value, str):
        names.extend(value.split("+"))
    elif isinstance(value, list | tuple):
        names.extend(value)
    known = set()
    # Enough for any real list; an alias in a file may stand for a million.
    for each in names[:MOST_NAMES]:
        name = each.strip().lower() if isinstance(each, str) else ""
        name = ALSO_CALLED.get(name, name)
        if name not in CONTAINERS:
            raise ValueError(
                f"'containers' should be some of {', '.join(CONTAINERS)}, such as wav+mp3+flac"
            )
        known.add(name)
    if not known:
        raise ValueError("'containers' should name at least one, such as wav+mp3+flac")
    # WAV is what the router sends in place of all others.
    return frozenset(known | {"wav"})
