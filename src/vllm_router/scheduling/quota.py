"""How much audio one key may have in flight, and may send per minute.

A bucket that holds one minute's worth and fills at that rate, as in GCRA: a burst of a minute is
fine, a lasting excess is not. An audio is charged by what its header says, or an estimate, before
any engine has it; once its true length is known the charge is corrected. Clock and amounts are
arguments; state is one small object per key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class QuotaRules:
    """Bounds for each key.

    Attributes:
        in_flight_s: Audio seconds at a time; None: any.
        per_minute_s: Audio seconds per minute; None: any.
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
        rules: The same for every key.
    """

    def __init__(self, rules: QuotaRules) -> None:
        self._rules = rules
        self._accounts: dict[str, _Account] = {}

    def take(self, name: str, audio_s: float, now: float) -> float | None:
        """Charge a key with an audio.

        An audio larger than the whole bound is let through by an account that is otherwise empty:
        it could never pass else.

        Returns:
            None when it is charged, or the seconds after which trying again is worth it.
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
        """Charge what an audio has turned out to be in place of what was charged per minute.

        Args:
            name: The key's.
            charged_s: What `take` was given.
            true_s: Its length, 0 or more.
            now: Monotonic seconds.
        """
        rate = self._rules.per_minute_s
        account = self._accounts[name]
        if rate is not None:
            _refill(account, rate, now)
        account.spent_s = max(0.0, account.spent_s + true_s - charged_s)

    def give_back(self, name: str, audio_s: float) -> None:
        """Say that an audio that was taken is no longer in flight."""
        account = self._accounts[name]
        account.in_flight_s = max(0.0, account.in_flight_s - audio_s)


def _refill(account: _Account, rate: float, now: float) -> None:
    account.spent_s = max(0.0, account.spent_s - (now - account.at) * rate / WINDOW_S)
    account.at = now
