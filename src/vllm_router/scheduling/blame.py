"""Who is to blame for a refusal: the upload, or the engine that refused it?

A status alone does not tell. A broken engine answers 400 to everything, and a broken file gets a
500 from every engine. So engines are compared: a refusal speaks against the upload only where the
engine serves other uploads well, and two such engines have to agree. A refusal that another engine
does not repeat speaks against the engine.

A client that sends one broken file after the other must not have each of them asked for twice. Once
engines have agreed on a status several times of late, refusals of that status are usual, and one
engine's word is enough as long as the same engine does not refuse one upload after the other.

Bounds: a few numbers for each engine, and one for each status (at most `_MOST_STATUSES`).

Refuses to know: engines, uploads, what follows for either.
"""

import math
from dataclasses import dataclass
from typing import Final

#: More statuses than engines use; a broken one may answer a new one each time.
_MOST_STATUSES: Final = 8
#: What an engine cut off longer ago says nothing of how it is now.
_CUT_FOR_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class BlameRules:
    """The numbers behind the rules.

    Attributes:
        votes: Engines in good standing that must refuse an upload before its client is told so.
        recent_s: A good answer from longer ago says nothing of how the engine is now. Where little
            comes in, to ask one engine more costs nothing.
        usual_after: Agreements on a status after which one vote is enough for it.
        usual_for_s: Time in which an agreement loses all but 1/e of its weight. A client that
            sends broken files is noticed again within minutes, an engine that has changed as well.
        doubted_after: Bad answers in a row that put an engine on trial while others answer well.
        doubted_after_usual: The same while refusals of that status are usual: with half of all
            uploads broken, eight in a row come once in 256.
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
            is_usual: Whether refusals of its status are usual.
            count: Bad answers in a row of the engine that refused, this one included.
        """
        return 1 if is_usual and count < self.doubted_after else self.votes

    def is_doubtful(self, *, is_usual: bool, unexplained: int) -> bool:
        """Whether so many bad answers in a row are out of line while other engines answer well."""
        return unexplained >= (self.doubted_after_usual if is_usual else self.doubted_after)


class RefusalRecord:
    """An engine's bad answers since its last good one.

    Attributes:
        count: How many there were, refusals of every kind included.
        unexplained: How many of them no other engine has agreed with.
        since: When the first of them came, monotonic seconds; minus infinity: there is none.
        are_late: Whether all of them only were late; true if there is none.
        cut_at: When it first cut off a call since its last good answer; infinity: it did not.
    """

    __slots__ = ("are_late", "count", "cut_at", "since", "unexplained")

    def __init__(self) -> None:
        self.count = 0
        self.are_late = True
        self.unexplained = 0
        self.since = -math.inf
        self.cut_at = math.inf

    def good(self) -> None:
        """Note a good answer."""
        self.count = self.unexplained = 0
        self.are_late = True
        self.since = -math.inf
        self.cut_at = math.inf

    def bad(self, now: float, *, is_late: bool = False) -> None:
        """Note a bad answer, or, late, that there was none in time."""
        self.are_late = self.are_late and is_late
        if not self.count:
            self.since = now
        self.count += 1
        self.unexplained += 1

    def explained(self) -> None:
        """Note that another engine agrees with one of the refusals.

        It still counts for `is_credible`: two broken engines agree as well.
        """
        if self.unexplained:
            self.unexplained -= 1

    def is_credible(self, last_good_at: float | None, now: float, recent_s: float) -> bool:
        """Whether the last bad answer speaks against its upload: the one before was good, of late.

        Args:
            last_good_at: When the engine last answered well; None: it has not been asked before.
            now: Monotonic seconds.
            recent_s: What is of late.
        """
        is_recent = last_good_at is None or now - last_good_at <= recent_s
        return self.count <= 1 and is_recent

    def is_death(self, started_at: float, now: float) -> bool:
        """Note that a call was cut off; return whether it may have ended the engine.

        Everything an engine works on is cut off when it dies, which is one event, not many. A call
        that began after the engine had cut off another is a second event: it takes calls and cuts
        them off, which no upload is to blame for.

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
    """Statuses with which engines have agreed to refuse uploads of late.

    Args:
        rules: The numbers.
    """

    __slots__ = ("_noted", "_rules")

    def __init__(self, rules: BlameRules) -> None:
        self._rules = rules
        self._noted: dict[int, tuple[float, float]] = {}

    def note(self, status: int, now: float) -> None:
        """Note that engines have agreed on a refusal."""
        weight = self._weight(status, now) + 1.0
        self._noted.pop(status, None)
        self._noted[status] = (weight, now)
        if len(self._noted) > _MOST_STATUSES:
            del self._noted[next(iter(self._noted))]

    def forget(self, status: int) -> None:
        """Note that an engine refused what another did not: its status says little at present."""
        self._noted.pop(status, None)

    def are_usual(self, status: int, now: float) -> bool:
        """Whether refusals of a status are usual at present."""
        # The older of several agreements have lost a little of their weight.
        return self._weight(status, now) > self._rules.usual_after - 0.5

    def _weight(self, status: int, now: float) -> float:
        noted = self._noted.get(status)
        if noted is None:
            return 0.0
        weight, at = noted
        return weight * math.exp((at - now) / self._rules.usual_for_s)


def rest_s(asked_s: float | None, rests: int, longest_s: float) -> float:
    """Return how long an engine rests that asked for it, in seconds.

    Args:
        asked_s: What it asked for; None: it did not say how long.
        rests: How often in a row it has asked, from 1. Each rest is twice as long as the one before
            at least, for an engine that asks again and again serves nobody.
        longest_s: The bound.
    """
    least_s = 2.0 ** min(rests - 1, 30)
    wanted_s = 0.0 if asked_s is None or not asked_s > 0.0 else asked_s
    return min(longest_s, max(least_s, wanted_s))
