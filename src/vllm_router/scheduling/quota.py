"""Limits per key on audio in flight and on audio per minute.

A bucket holds one minute's worth and refills at that rate, as in GCRA: a burst of a minute is
allowed, a sustained excess is not. Audio is charged by its header or an estimate before any engine
gets it; the charge is corrected once the true length is known. Clock and amounts are arguments;
state is one small object per key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class QuotaRules:
    """Limits per key.

    Attributes:
        in_flight_s: Seconds of audio in flight at a time; None for no limit.
        per_minute_s: Seconds of audio per minute; None for no limit.
    """

    in_flight_s: float | None = None
    per_minute_s: float | None = None


@dataclass(slots=True)
class _Account:
    in_flight_s: float = 0.0
    spent_s: float = 0.0
    at: float = 0.0


class Quotas:
    """The accounts of all keys.

    Args:
        rules: The limits, the same for every key.
    """

    def __init__(self, rules: QuotaRules) -> None:
        self._rules = rules
        self._accounts: dict[str, _Account] = {}

    def take(self, name: str, audio_s: float, now: float) -> float | None:
        """Charge a key for an upload.

        An otherwise empty account admits audio that exceeds the whole limit, because such audio
        could never pass otherwise.

        Returns:
            None if it was charged, or the seconds after which a retry is worthwhile.
        """
        rules = self._rules
        account = self._accounts.setdefault(name, _Account(at=now))
        rate = rules.per_minute_s
        if rate is not None:
            _refill(account, rate, now)
            excess_s = account.spent_s + audio_s - rate
            if excess_s > 0 and account.spent_s > 0:
                return max(1.0, min(excess_s, account.spent_s) * WINDOW_S / rate)
        bound_s = rules.in_flight_s
        if bound_s is not None and 0 < account.in_flight_s > bound_s - audio_s:
            return 1.0
        account.in_flight_s += audio_s
        account.spent_s += audio_s
        return None

    def correct(self, name: str, charged_s: float, true_s: float, now: float) -> None:
        """Replace an upload's charge per minute by its true length.

        Args:
            name: The key's name.
            charged_s: The length given to `take`, in seconds.
            true_s: The true length in seconds, 0 or more.
            now: Monotonic seconds.
        """
        rate = self._rules.per_minute_s
        account = self._accounts[name]
        if rate is not None:
            _refill(account, rate, now)
        account.spent_s = max(0.0, account.spent_s + true_s - charged_s)

    def give_back(self, name: str, audio_s: float) -> None:
        """Record that charged audio is no longer in flight."""
        account = self._accounts[name]
        account.in_flight_s = max(0.0, account.in_flight_s - audio_s)


def _refill(account: _Account, rate: float, now: float) -> None:
    account.spent_s = max(0.0, account.spent_s - (now - account.at) * rate / WINDOW_S)
    account.at = now
