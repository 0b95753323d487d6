"""Who may ask: keys held as hashes, compared in constant time, never logged."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass


def digest(key: str | bytes) -> bytes:
    """Return the hash under which a key is held."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


@dataclass(frozen=True, slots=True)
class Holder:
    """A key's holder: its name for metrics, and the key's hash."""

    name: str
    digest: bytes


class KeyRing:
    """The keys that clients may present.

    Args:
        holders: With no holder at all, everybody may ask.
    """

    def __init__(self, holders: Iterable[Holder]) -> None:
        self._holders = tuple(holders)

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return not self._holders

    def holder(self, authorization: bytes | None) -> Holder | None:
        """Return who presents this Authorization header; None if nobody known does.

        Every key is compared, so that the time taken does not tell which one was near.
        """
        if authorization is None:
            return None
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        presented = digest(token.strip())
        found = None
        for holder in self._holders:
            if hmac.compare_digest(holder.digest, presented):
                found = holder
        return found
