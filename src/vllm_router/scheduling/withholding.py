"""Kinds of upload that one engine refuses although others of its model serve them. Pure.

During an upgrade, a fleet mixes engines that read MP4 with some that do not. Such an engine refuses
some uploads but is otherwise sound: ejecting it would waste its capacity, and sending it more
uploads of that kind would waste a call each.

A kind is withheld once the engine has refused it `REFUSALS` times in a row, other engines served
each of those uploads, and the engine has served something else in the meantime. Without the last
condition, it may be an engine that refuses everything. A kind is everything that an upload asks for
("mp4+language"), so there is no need to guess which part was refused.

A withheld kind is offered again after `WITHHELD_S`, and to an engine that has restarted.

Bounds: `MAX_KINDS` kinds per engine; the oldest is evicted.
"""

from typing import Final

#: Consecutive refusals, each refuted by another engine, after which a kind is withheld.
REFUSALS: Final = 2
#: As long as limitations learned for all engines of a model are believed, in seconds.
WITHHELD_S: Final = 1800.0
#: Ten containers with and without two fields, plus a margin.
MAX_KINDS: Final = 48


class _Kind:
    """Refusals of one kind of upload.

    Attributes:
        since: Time of the first, monotonic seconds.
        at: Time of the last.
        count: Consecutive refusals without a success in between.
        is_withheld: Whether the engine gets no more of it.
    """

    __slots__ = ("at", "count", "is_withheld", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        self.at = now
        self.count = 0
        self.is_withheld = False


class Withholding:
    """The kinds of upload withheld from one engine."""

    __slots__ = ("_kinds",)

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def refuted(self, kind: str, now: float, last_ok_at: float | None) -> bool:
        """Record a refusal of an upload that another engine has served.

        Args:
            kind: The upload's kind, not empty.
            now: Monotonic seconds.
            last_ok_at: Time of the engine's last good answer; None if it has given none.

        Returns:
            Whether the kind explains the refusal. It is then withheld, and the engine is not to
            blame.
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
        """Record that the engine has served an upload of a kind."""
        self._kinds.pop(kind, None)

    def withholds(self, kind: str, now: float, ready_since: float | None) -> bool:
        """Return whether the engine gets no uploads of a kind now.

        Args:
            kind: The upload's kind.
            now: Monotonic seconds.
            ready_since: When the engine last became ready, which may have been after an upgrade.
        """
        found = self._kinds.get(kind)
        if found is None:
            return False
        has_restarted = ready_since is not None and ready_since > found.at
        if has_restarted or now - found.at > WITHHELD_S:
            del self._kinds[kind]
            return False
        return found.is_withheld
