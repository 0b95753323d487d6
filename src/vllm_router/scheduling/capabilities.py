"""Capabilities of a model's engines, and how to combine them. Pure.

`None` means unknown. Unknown engines are assumed to be vLLM with Whisper: they get what the client
sent, because a refusal is better evidence than a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

#: Containers that an upload's first bytes identify (`audio.duration.container_kind`).
CONTAINERS: Final = ("wav", "flac", "mp3", "ogg", "mp4", "webm", "aac", "amr", "aiff")
#: Common aliases.
ALSO_CALLED: Final[Mapping[str, str]] = {
    "wave": "wav",
    "mpga": "mp3",
    "mpeg": "mp3",
    "oga": "ogg",
    "opus": "ogg",
    "m4a": "mp4",
    "mov": "mp4",
    "mka": "webm",
    "mkv": "webm",
    "aif": "aiff",
}
_MIB: Final = 2**20
#: Length and size limits of the segments that the router cuts. An engine that accepts less than a
#: window of 30 s, 0.92 MiB as 16 kHz WAV, cannot be used.
LEAST_AUDIO_S: Final = 30.0
LEAST_FILE_BYTES: Final = _MIB


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Known capabilities of engines.

    Attributes:
        verbose_json: Whether they support `verbose_json`.
        language: Whether they accept the field `language`.
        max_audio_s: Longest accepted audio, in seconds.
        max_file_bytes: Largest accepted file, in bytes.
        containers: All containers that they can read; None if unknown.
        unreadable: Containers that they are known not to read.
    """

    verbose_json: bool | None = None
    language: bool | None = None
    max_audio_s: float | None = None
    max_file_bytes: int | None = None
    containers: frozenset[str] | None = None
    unreadable: frozenset[str] = frozenset()

    def can_read(self, kind: str) -> bool:
        """Return whether a file in a container may be sent unchanged.

        WAV always may: the router sends it in place of containers that engines cannot read.
        """
        if kind == "wav":
            return True
        return kind not in self.unreadable and (self.containers is None or kind in self.containers)

    def can_take(self, audio_s: float, size_bytes: int) -> bool:
        """Return whether an upload is within the engines' known limits."""
        return (self.max_audio_s is None or audio_s <= self.max_audio_s) and (
            self.max_file_bytes is None or size_bytes <= self.max_file_bytes
        )

    def beats(self, other: Capabilities) -> Capabilities:
        """Return these capabilities, with unknown ones filled in from another source."""
        has_containers = self.containers is not None
        return Capabilities(
            other.verbose_json if self.verbose_json is None else self.verbose_json,
            other.language if self.language is None else self.language,
            other.max_audio_s if self.max_audio_s is None else self.max_audio_s,
            other.max_file_bytes if self.max_file_bytes is None else self.max_file_bytes,
            self.containers if has_containers else other.containers,
            self.unreadable if has_containers else self.unreadable | other.unreadable,
        )

    def view(self) -> dict[str, object]:
        """Return the known capabilities as a JSON object."""
        known: dict[str, object] = {}
        if self.verbose_json is not None:
            known["verbose_json"] = self.verbose_json
        if self.language is not None:
            known["language"] = self.language
        if self.max_audio_s is not None:
            known["max_audio_s"] = round(self.max_audio_s, 3)
        if self.max_file_bytes is not None:
            known["max_file_mb"] = round(self.max_file_bytes / _MIB, 3)
        if self.containers is not None:
            known["containers"] = sorted(self.containers)
        if self.unreadable:
            known["unreadable_containers"] = sorted(self.unreadable)
        return known


#: Nothing is known.
UNKNOWN: Final = Capabilities()


def narrowest(several: Iterable[Capabilities]) -> Capabilities:
    """Return what all given engines can do, because an upload may go to any of them."""
    result = UNKNOWN
    for each in several:
        containers = each.containers
        if result.containers is not None:
            containers = result.containers if containers is None else containers & result.containers
        size = _least(result.max_file_bytes, each.max_file_bytes)
        result = Capabilities(
            _both(result.verbose_json, each.verbose_json),
            _both(result.language, each.language),
            _least(result.max_audio_s, each.max_audio_s),
            None if size is None else int(size),
            containers,
            result.unreadable | each.unreadable,
        )
    return result


def _both(a: bool | None, b: bool | None) -> bool | None:
    if a is None or b is None:
        return b if a is None else a
    return a and b


def _least(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a, b)
