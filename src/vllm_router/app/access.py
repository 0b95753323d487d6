"""Who may ask: keys held as hashes, compared in constant time, never logged.

Keys come from flags and from a file that is read again when it changes; a broken edit keeps the
keys that were good.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

#: How often a key file is looked at: a revoked key stops working within this time.
LOOK_S: Final = 1.0


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

    def replace(self, holders: Iterable[Holder]) -> None:
        """Take other keys from now on."""
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


def read_keys(text: str) -> tuple[Holder, ...]:
    """Return the keys in a key file.

    Args:
        text: A key a line, or `name:key`; blank lines and lines beginning with # are skipped.

    Raises:
        ValueError: There is no key in it, or one that no client could send; the key is not quoted.
    """
    holders = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, key = line.partition(":")
        if not colon:
            name, key = f"line-{number}", line
        name, key = name.strip(), key.strip()
        if not name or not key or not key.isascii() or " " in key:
            raise ValueError(f"line {number} holds no usable key")
        holders.append(Holder(name, digest(key)))
    if not holders:
        raise ValueError("it holds no key")
    return tuple(holders)


class KeyFile:
    """A key file that is read again when it changes.

    Args:
        path: The file.
        ring: Gets the keys.
        others: Keys that count besides those of the file.

    Raises:
        ValueError: The file cannot be used at start.
    """

    def __init__(self, path: Path, ring: KeyRing, others: tuple[Holder, ...]) -> None:
        self._path = path
        self._ring = ring
        self._others = others
        self._content = b""
        self._load()

    def _load(self) -> None:
        try:
            content = self._path.read_bytes()
            holders = read_keys(content.decode())
        except (OSError, UnicodeDecodeError) as e:
            raise ValueError(f"--api-key-file: '{self._path}' cannot be read: {e}") from e
        except ValueError as e:
            raise ValueError(f"--api-key-file: '{self._path}' cannot be used: {e}") from e
        if content != self._content:
            self._content = content
            self._ring.replace((*self._others, *holders))

    async def follow(self) -> None:
        """Read the file again whenever it changes, for ever."""
        told = None
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self._load()
            except ValueError as e:
                if str(e) != told:
                    log.warning("%s; the keys that were good are kept", e)
                told = str(e)
            else:
                told = None
