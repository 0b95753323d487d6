"""Incremental decoding of HTTP/1.1's chunked transfer coding (RFC 9112, section 7.1).

Locates content in the bytes that it is fed and copies none of it. Strict: rejects anything that two
implementations might parse differently, because request smuggling relies on such differences.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

#: A chunk's size line with its extensions, which no client sends. h11 and nginx have similar
#: bounds.
MAX_LINE_BYTES: Final = 1024
#: All trailer lines together.
MAX_TRAILER_BYTES: Final = 8 * 1024

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*|[ \t]*)")

_PLAIN: Final = re.compile(rb"([0-9A-Fa-f]{1,7})\r\n")
_FIELD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


class BadChunk(ValueError):
    """The body violates the chunked coding."""


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    DONE = auto()


class ChunkedReader:
    """Locates content in a chunked body that arrives in parts."""

    __slots__ = ("_left", "_line", "_state", "_trailer_bytes")

    def __init__(self) -> None:
        self._state = _State.SIZE
        self._left = 0
        self._line = bytearray()
        self._trailer_bytes = 0

    @property
    def is_done(self) -> bool:
        """Whether the body has ended."""
        return self._state is _State.DONE

    def feed(
        self, data: bytes | bytearray, start: int, end: int
    ) -> tuple[list[tuple[int, int]], int]:
        """Parse `data[start:end]`.

        Returns:
            The ranges of `data` that hold content, in order, and the offset where parsing stopped:
            `end`, or the offset after the body's last byte if the body ends here.

        Raises:
            BadChunk: A rule or bound is violated.
        """
        spans: list[tuple[int, int]] = []
        at = start
        while at < end and self._state is not _State.DONE:
            if self._state is _State.DATA:
                stop = min(end, at + self._left)
                spans.append((at, stop))
                self._left -= stop - at
                at = stop
                if not self._left:
                    self._state = _State.DATA_END
                continue
            if self._state is _State.SIZE and not self._line:
                # A chunk that is complete here takes one step, so that a flood of tiny chunks stays
                # cheap.
                plain = _PLAIN.match(data, at, end)
                if plain is not None:
                    first = plain.end()
                    last = first + int(plain[1], 16)
                    if first < last <= end - 2 and data[last : last + 2] == b"\r\n":
                        spans.append((first, last))
                        at = last + 2
                        continue
            at = self._read_line(data, at, end)
        return spans, at

    def _read_line(self, data: bytes | bytearray, at: int, end: int) -> int:
        line = self._line
        found = data.find(b"\n", at, min(end, at + MAX_LINE_BYTES + 2))
        stop = min(end, at + MAX_LINE_BYTES + 2) if found < 0 else found + 1
        line += data[at:stop]
        if len(line) > MAX_LINE_BYTES:
            raise BadChunk("a chunk's size line is too long")
        if found < 0:
            return stop
        if not line.endswith(b"\r\n"):
            raise BadChunk("a chunk's line does not end with CRLF")
        self._take_line(bytes(line[:-2]))
        line.clear()
        return stop

    def _take_line(self, line: bytes) -> None:
        if self._state is _State.DATA_END:
            if line:
                raise BadChunk("a chunk is longer than its declared size")
            self._state = _State.SIZE
        elif self._state is _State.SIZE:
            match = _SIZE.fullmatch(line)
            if not match:
                raise BadChunk("a chunk has no valid size")
            self._left = int(match[1], 16)
            self._state = _State.DATA if self._left else _State.TRAILER
        elif not line:
            self._state = _State.DONE
        else:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > MAX_TRAILER_BYTES:
                raise BadChunk("the trailer is too long")
            if not _FIELD.fullmatch(line):
                raise BadChunk("the trailer has a line that is not a field")
