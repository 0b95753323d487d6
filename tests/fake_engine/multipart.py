"""A multipart/form-data reader that keeps little of an upload: what tests and the engine need.

Fed in pieces of any size as they arrive. Values of plain fields are kept whole (up to a bound); of
a file only the first `keep_bytes`, the last 64 KiB, its size and its SHA-256, so that a fleet of
simulated engines can take large uploads with little memory.

It knows nothing of HTTP, and nothing of what the fields mean.
"""

import hashlib
import re
from dataclasses import dataclass, field

# A prompt of a few thousand words fits.
FIELD_BYTES = 1 << 20
# Enough of a file's end for the last page of an Ogg stream.
TAIL_BYTES = 64 << 10
# The headers of one part; the longest file names need far less.
PART_HEADER_BYTES = 16 << 10

_PARAMETER = re.compile(r';\s*([\w-]+\*?)\s*=\s*(?:"((?:\\.|[^"\\])*)"|([^;\s]*))')


class FormError(ValueError):
    """The body is not the multipart form that its content type promised."""


@dataclass(slots=True)
class Part:
    """One part of a form as it was received.

    `head` holds the first bytes (all of them for a plain field), `tail` the last 64 KiB of what
    did not fit into `head`.
    """

    name: str
    filename: str | None
    content_type: str | None
    keep_bytes: int
    size_bytes: int = 0
    head: bytearray = field(default_factory=bytearray)
    tail: bytes = b""
    is_marked: bool = False
    marker: bytes = b""
    sha256: str = ""
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    _overlap: bytes = b""

    @property
    def is_file(self) -> bool:
        """Whether the part carried a file name, which is what makes it a file."""
        return self.filename is not None

    @property
    def value(self) -> bytes:
        """The bytes of a plain field."""
        return bytes(self.head)

    def add(self, data: bytes | memoryview) -> None:
        """Take in the next bytes of the part's content."""
        self.size_bytes += len(data)
        self._digest.update(data)
        room = self.keep_bytes - len(self.head)
        if room >= len(data):
            self.head += data
        else:
            self.head += data[:room]
            rest = bytes(data[max(room, len(data) - TAIL_BYTES) :])
            self.tail = (self.tail + rest)[-TAIL_BYTES:]
        if self.marker and not self.is_marked:
            seen = self._overlap + bytes(data)
            self.is_marked = self.marker in seen
            self._overlap = seen[1 - len(self.marker) :] if len(self.marker) > 1 else b""

    def finish(self) -> None:
        """Compute the digest; nothing may be added afterwards."""
        self.sha256 = self._digest.hexdigest()

    def forget_content(self) -> None:
        """Let a file's bytes go; its names, size and digest stay."""
        if self.is_file:
            self.head = bytearray()
            self.tail = b""


def boundary_of(content_type: bytes) -> bytes | None:
    """Return the boundary of a multipart/form-data content type, None when it is something else."""
    kind, _, _ = content_type.partition(b";")
    if kind.strip().lower() != b"multipart/form-data":
        return None
    for name, quoted, bare in _PARAMETER.findall(content_type.decode("latin-1")):
        if name.lower() == "boundary":
            return (quoted or bare).encode("latin-1") or None
    return None


class FormReader:
    """Incremental reader of one multipart body.

    Args:
        boundary: As in the content type, without leading dashes.
        keep_bytes: How many first bytes of a file are kept.
        marker: Files holding these bytes are flagged `is_marked`; empty flags none.
    """

    def __init__(self, boundary: bytes, keep_bytes: int, marker: bytes = b"") -> None:
        self.parts: list[Part] = []
        self._delimiter = b"\r\n--" + boundary
        self._keep_bytes = keep_bytes
        self._marker = marker
        # The first delimiter may lack the line break before it: provide one.
        self._carry = b"\r\n"
        self._part: Part | None = None
        self._step = self._in_content
        self._is_closed = False

    def feed(self, data: bytes) -> None:
        """Take in the next bytes of the body.

        Raises:
            FormError: The bytes cannot be a form's.
        """
        buffer = self._carry + data
        at = 0
        while (following := self._step(buffer, at)) is not None:
            at = following
        self._carry = buffer[self._consumed(buffer, at) :]

    def finish(self) -> list[Part]:
        """Return the parts once the body has ended.

        Raises:
            FormError: The closing delimiter never came.
        """
        if not self._is_closed:
            raise FormError("the body ended before the form's closing boundary")
        return self.parts

    def _consumed(self, buffer: bytes, at: int) -> int:
        """Hand over content that cannot be part of a delimiter; return how far that went."""
        if self._is_closed:
            return len(buffer)
        if self._step != self._in_content:
            return at
        end = max(at, len(buffer) - len(self._delimiter) + 1)
        if self._part is not None and end > at:
            self._part.add(memoryview(buffer)[at:end])
        return end

    def _in_content(self, buffer: bytes, at: int) -> int | None:
        end = buffer.find(self._delimiter, at)
        if end < 0:
            return None
        if self._part is not None:
            self._part.add(memoryview(buffer)[at:end])
            self._part.finish()
            self._part = None
        self._step = self._after_delimiter
        return end + len(self._delimiter)

    def _after_delimiter(self, buffer: bytes, at: int) -> int | None:
        following = buffer[at : at + 2]
        if len(following) < 2:
            return None
        if following == b"--":
            self._is_closed = True
            self._step = self._in_epilogue
        elif following == b"\r\n":
            self._step = self._in_header
            return at  # the line break stays: an empty header block is two of them
        else:
            raise FormError("a boundary is followed by neither a line break nor two dashes")
        return at + 2

    def _in_header(self, buffer: bytes, at: int) -> int | None:
        end = buffer.find(b"\r\n\r\n", at)
        if end < 0:
            if len(buffer) - at > PART_HEADER_BYTES:
                raise FormError("the header of a part does not end")
            return None
        self._part = self._begin(buffer[at:end])
        self.parts.append(self._part)
        self._step = self._in_content
        return end + 4

    def _in_epilogue(self, buffer: bytes, at: int) -> int | None:
        return None

    def _begin(self, block: bytes) -> Part:
        headers: dict[str, str] = {}
        for line in block.decode("utf-8", "surrogateescape").split("\r\n"):
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        disposition = headers.get("content-disposition", "")
        found = {name: quoted or bare for name, quoted, bare in _PARAMETER.findall(disposition)}
        if "name" not in found:
            raise FormError("a part has no name")
        filename = found.get("filename")
        is_file = filename is not None
        return Part(
            name=found["name"],
            filename=filename,
            content_type=headers.get("content-type"),
            keep_bytes=self._keep_bytes if is_file else FIELD_BYTES,
            marker=self._marker if is_file else b"",
        )
