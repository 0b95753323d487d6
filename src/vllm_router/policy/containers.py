"""Which containers a model's engines cannot read, learned from their refusals. Pure.

An engine that refuses a file which the router decodes, and takes the same sound as WAV, cannot read
the file's container: older vLLM releases read no MP4, M4A or WebM. One refusal may have another
cause, so a container is believed unreadable after two with no such file read in between, and for a
limited time, since engines are upgraded. WAV is what the router sends: it is never believed to be.
"""

from __future__ import annotations

from typing import Final

#: Refusals in a row after which the router decodes without asking first.
REFUSALS: Final = 2
#: How long that is believed, in seconds.
BELIEVED_S: Final = 1800.0


class ContainerBook:
    """Remembers refusals by model and container."""

    __slots__ = ("_refusals",)

    def __init__(self) -> None:
        self._refusals: dict[tuple[str, str], tuple[int, float]] = {}

    def refused(self, model: str, kind: str, now: float) -> None:
        """Note that an engine refused a file which turned out to be sound.

        Args:
            model: The engine's model.
            kind: The file's container, such as "mp4".
            now: Monotonic seconds.
        """
        if kind == "wav":
            return
        count, at = self._refusals.get((model, kind), (0, now))
        if now - at > BELIEVED_S:
            count = 0
        self._refusals[model, kind] = (count + 1, now)

    def read(self, model: str, kind: str) -> None:
        """Note that an engine read a file: refusals before it had other causes."""
        if self._refusals:
            self._refusals.pop((model, kind), None)

    def is_unreadable(self, model: str, kind: str, now: float) -> bool:
        """Return whether a container is to be decoded without asking the engines first."""
        found = self._refusals.get((model, kind))
        if found is None:
            return False
        count, at = found
        if now - at > BELIEVED_S:
            del self._refusals[model, kind]
            return False
        return count >= REFUSALS

    def unreadable(self, model: str, now: float) -> tuple[str, ...]:
        """Return the containers that a model's engines are believed unable to read."""
        kinds = [kind for name, kind in self._refusals if name == model]
        return tuple(sorted(kind for kind in kinds if self.is_unreadable(model, kind, now)))
