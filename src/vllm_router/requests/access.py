"""API keys: stored as hashes, compared in constant time, never logged.

Keys come from flags and from a file that is reloaded when it changes. If an edit is invalid, the
previous keys remain in force. Bounds: a file of 1 MiB, about 20,000 keys.
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

from vllm_router.discovery.regular_file import FileReader, read_regular_file

log = logging.getLogger(__name__)

#: Interval between reads of a key file. An edit takes effect once two reads agree, so that a file
#: being written does not (half of a key is a key). A revoked key works for about a second more.
LOOK_S: Final = 0.5
MAX_FILE_BYTES: Final = 2**20
#: Names appear in metrics and in every access log line.
MAX_NAME_CHARS: Final = 200


def digest(key: str | bytes) -> bytes:
    """Return the hash under which a key is stored."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


@dataclass(frozen=True, slots=True)
class Holder:
    """A key's holder: the name used in metrics, and the key's hash."""

    name: str
    digest: bytes


class KeyRing:
    """The keys that clients may present.

    Args:
        holders: If empty, no key is required.
    """

    def __init__(self, holders: Iterable[Holder]) -> None:
        self._holders = tuple(holders)

    def replace(self, holders: Iterable[Holder]) -> None:
        """Replace all keys."""
        self._holders = tuple(holders)

    @property
    def is_open(self) -> bool:
        """Whether no key is required."""
        return not self._holders

    def holder(self, authorization: bytes | None) -> Holder | None:
        """Return the holder for an Authorization header; None if the key is missing or unknown.

        Every key is compared, so that the duration reveals nothing about the keys.
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
        text: One key per line, or `name:key`; blank lines and lines that begin with # are skipped.

    Raises:
        ValueError: It holds no key, or one that no client could send. The message omits the key.
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
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(f"line {number} holds no usable key")
        if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
            raise ValueError(f"line {number} holds no usable name for its key's holder")
        holders.append(Holder(name, digest(key)))
    if not holders:
        raise ValueError("it holds no key")
    return tuple(holders)


class KeyFile:
    """A key file that is reloaded when it changes.

    Args:
        path: The file.
        ring: Receives the keys.
        others: Keys that are valid in addition to those of the file.

    Raises:
        ValueError: The file cannot be used at startup.
    """

    def __init__(self, path: Path, ring: KeyRing, others: tuple[Holder, ...]) -> None:
        self._path = path
        self._ring = ring
        self._others = others
        self._content: bytes | None = None
        self._before = b""
        self._told: str | None = None
        self._reader = FileReader(path, MAX_FILE_BYTES)
        try:
            self._take(read_regular_file(path, MAX_FILE_BYTES))
        except (OSError, ValueError) as e:
            raise ValueError(self._wrong(e)) from e

    def _take(self, content: bytes) -> None:
        if content != self._content:
            self._ring.replace((*self._others, *read_keys(content.decode())))
            self._content = content

    def _wrong(self, error: OSError | ValueError) -> str:
        is_read = isinstance(error, ValueError) and not isinstance(error, UnicodeDecodeError)
        said = "used" if is_read else "read"
        why = getattr(error, "strerror", None) or error
        return f"--api-key-file: '{self._path}' cannot be {said}: {why}"

    async def follow(self) -> None:
        """Reload the file whenever it changes. Never returns."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Read the file and adopt its keys if it has changed; log each problem once."""
        try:
            content = await self._reader.content()
            before, self._before = self._before, content
            if content != before:
                return
            self._take(content)
        except (OSError, ValueError) as e:
            wrong = self._wrong(e)
            if wrong != self._told:
                log.warning("%s; the previous keys remain in force", wrong)
            self._told = wrong
        else:
            self._told = None
