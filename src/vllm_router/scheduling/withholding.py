"""Which kinds of upload one engine refuses although others of its model serve them. Pure.

A fleet that is being upgraded mixes engines that read MP4 with some that do not. Such an engine
refuses part of the uploads and is sound otherwise: ejecting it would waste it, and sending it
further uploads of the kind would waste a call each.

A kind is withheld once the engine has refused it `REFUSALS` times in a row, others served each of
those uploads, and the engine has served something else meanwhile. Without the last it may be an
engine that refuses everything. A kind is the whole of what an upload asks for ("mp4+language"), so
that no guess is needed which part was refused.

What is withheld is offered again after `WITHHELD_S`, and to an engine that has been restarted.

Bounds: `MAX_KINDS` kinds for each engine; the oldest makes room.
"""

from typing import Final

#: Refusals in a row, each refuted by another engine, after which a kind is withheld.
REFUSALS: Final = 2
#: As long as what is learned of all engines of a model is believed, in seconds.
WITHHELD_S: Final = 1800.0
#: Ten containers, with and without two fields, and some to spare.
MAX_KINDS: Final = 48


class _Kind:
    """Refusals of one kind of upload.

    Attributes:
        since: When the first of them came, monotonic seconds.
        at: When the last of them came.
        count: How many there were, without a success in between.
        is_withheld: Whether the engine gets no more of it.
    """

    __slots__ = ("at", "count", "is_withheld", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        self.at = now
        self.count = 0
        self.is_withheld = False


class Withholding:
    """What one engine is not given."""

    __slots__ = ("_kinds",)

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def refuted(self, kind: str, now: float, last_ok_at: float | None) -> bool:
        """Note a refusal of an upload that another engine has served.

        Args:
            kind: The upload's kind, not empty.
            now: Monotonic seconds.
            last_ok_at: When the engine last answered anything well; None: never.

        Returns:
            Whether the kind explains the refusal: it is withheld, and the engine not to blame.
        """
        found = self._kinds.get(kind)
        if found is None or now - found.at > WITHHELD_S:
            self._kinds.pop(kind, None)
            if len(self._kinds) >= MAX_KINDS:
                del self._kinds[next(iter(self._kinds))]
            found = self._kinds[kind] = _Kind(now)
        found.at = now
        found.count += 1
        if found.count >= REFUSALS and last_ok_at is not None and last_ok_at > found.since:
            found.is_withheld = True
        return found.is_withheld

    def served(self, kind: str) -> None:
        """Note that the engine has served an upload of a kind."""
        self._kinds.pop(kind, None)

    def withholds(self, kind: str, now: float, ready_since: float | None) -> bool:
        """Return whether the engine gets no uploads of a kind now.

        Args:
            kind: The upload's kind.
            now: Monotonic seconds.
            ready_since: When the engine last became ready: it may be a newer one since.
        """
        found = self._kinds.get(kind)
        if found is None:
            return False
        has_restarted = ready_since is not None and ready_since > found.at
        if has_restarted or now - found.at > WITHHELD_S:
            del self._kinds[kind]
            return False
        return found.is_withheld
