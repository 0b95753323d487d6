"""Attribution of a refusal: to the upload, or to the engine that refused it.

A status alone does not tell. A broken engine answers 400 to everything, and a broken file gets 500
from every engine. So engines are compared: a refusal counts against the upload only if the engine
serves other uploads well, and two such engines must agree. A refusal that another engine does not
confirm counts against the engine.

A client that sends many broken files must not cost two calls for each. Once engines have recently
agreed on a status several times, refusals with that status are usual, and one engine's vote
suffices, as long as the same engine does not refuse one upload after another.

Bounds: a few numbers per engine and per status (at most `_MOST_STATUSES` statuses).

Refuses to know: engines, uploads, and the consequences for either.
"""

import math
from dataclasses import dataclass
from typing import Final

#: More statuses than engines use; a broken engine may send a new one each time.
_MOST_STATUSES: Final = 8
#: A call cut off longer ago does not describe the engine's present condition.
_CUT_FOR_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class BlameRules:
    """Thresholds for attributing refusals.

    Attributes:
        votes: Engines in good standing that must refuse an upload before the client is refused.
        recent_s: Age up to which a good answer describes the engine's present condition. With
            little traffic, asking one more engine costs nothing.
        usual_after: Agreements on a status after which one vote for it suffices.
        usual_for_s: Time in which an agreement's weight decays to 1/e. Both a client that sends
            broken files and an engine that has changed are noticed within minutes.
        doubted_after: Consecutive bad answers that put an engine on trial while other engines
            answer well.
        doubted_after_usual: The same while refusals with that status are usual: if half of all
            uploads are broken, eight in a row occur once in 256.
    """

    votes: int = 2
    recent_s: float = 3.0
    usual_after: float = 4.0
    usual_for_s: float = 60.0
    doubted_after: int = 3
    doubted_after_usual: int = 8

    def votes_needed(self, *, is_usual: bool, count: int) -> int:
        """Return how many engines must agree on a refusal.

        Args:
            is_usual: Whether refusals with its status are usual.
            count: Consecutive bad answers of the refusing engine, including this one.
        """
        return 1 if is_usual and count < self.doubted_after else self.votes

    def is_doubtful(self, *, is_usual: bool, unexplained: int) -> bool:
        """Whether so many bad answers in a row are suspicious while other engines answer well."""
        return unexplained >= (self.doubted_after_usual if is_usual else self.doubted_after)


class RefusalRecord:
    """An engine's bad answers since its last good one.

    Attributes:
        count: Number of bad answers, including refusals of every kind.
        unexplained: Number of them that no other engine has confirmed.
        since: Time of the first, monotonic seconds; minus infinity if there is none.
        are_late: Whether all of them were only late; true if there are none.
        cut_at: When it first cut off a call since its last good answer; infinity if it has not.
    """

    __slots__ = ("are_late", "count", "cut_at", "since", "unexplained")

    def __init__(self) -> None:
        self.count = 0
        self.are_late = True
        self.unexplained = 0
        self.since = -math.inf
        self.cut_at = math.inf

    def good(self) -> None:
        """Record a good answer."""
        self.count = self.unexplained = 0
        self.are_late = True
        self.since = -math.inf
        self.cut_at = math.inf

    def bad(self, now: float, *, is_late: bool = False) -> None:
        """Record a bad answer, or a missing one if `is_late`."""
        self.are_late = self.are_late and is_late
        if not self.count:
            self.since = now
        self.count += 1
        self.unexplained += 1

    def explained(self) -> None:
        """Record that another engine agrees with one of the refusals.

        It still counts for `is_credible`: two broken engines may agree.
        """
        if self.unexplained:
            self.unexplained -= 1

    def is_credible(self, last_good_at: float | None, now: float, recent_s: float) -> bool:
        """Whether a bad answer counts against its upload: the one before it was good and recent.

        Args:
            last_good_at: Time of the engine's last good answer; None if it has never been asked.
            now: Monotonic seconds.
            recent_s: Age up to which an answer is recent, in seconds.
        """
        is_recent = last_good_at is None or now - last_good_at <= recent_s
        return self.count <= 1 and is_recent

    def is_death(self, started_at: float, now: float) -> bool:
        """Record a call that was cut off; return whether it may have crashed the engine.

        A crash cuts off every call in flight on the engine; that is one event. A call that began
        after the engine had cut off another is a second event: the engine accepts calls and cuts
        them off, and no upload is to blame.

        Args:
            started_at: When the call began, monotonic seconds.
            now: Monotonic seconds.
        """
        if self.cut_at < started_at <= self.cut_at + _CUT_FOR_S:
            return False
        if self.cut_at + _CUT_FOR_S < started_at or self.cut_at == math.inf:
            self.cut_at = now
        return True


class Agreements:
    """Statuses with which engines have recently agreed to refuse uploads.

    Args:
        rules: The thresholds.
    """

    __slots__ = ("_noted", "_rules")

    def __init__(self, rules: BlameRules) -> None:
        self._rules = rules
        self._noted: dict[int, tuple[float, float]] = {}

    def note(self, status: int, now: float) -> None:
        """Record that engines have agreed on a refusal."""
        weight = self._weight(status, now) + 1.0
        self._noted.pop(status, None)
        self._noted[status] = (weight, now)
        if len(self._noted) > _MOST_STATUSES:
            del self._noted[next(iter(self._noted))]

    def forget(self, status: int) -> None:
        """Record that one engine refused what another served: the status now means little."""
        self._noted.pop(status, None)

    def are_usual(self, status: int, now: float) -> bool:
        """Whether refusals with a status are usual at present."""
        # Older agreements have already lost some of their weight.
        return self._weight(status, now) > self._rules.usual_after - 0.5

    def _weight(self, status: int, now: float) -> float:
        noted = self._noted.get(status)
        if noted is None:
            return 0.0
        weight, at = noted
        return weight * math.exp((at - now) / self._rules.usual_for_s)


def rest_s(asked_s: float | None, rests: int, longest_s: float) -> float:
    """Return how long an engine that asked for a rest gets no work, in seconds.

    Args:
        asked_s: The time it asked for; None if it gave none.
        rests: Consecutive requests for a rest, from 1. Each rest is at least twice as long as the
            previous one: an engine that keeps asking serves nobody.
        longest_s: Upper bound.
    """
    least_s = 2.0 ** min(rests - 1, 30)
    wanted_s = 0.0 if asked_s is None or not asked_s > 0.0 else asked_s
    return min(longest_s, max(least_s, wanted_s))
