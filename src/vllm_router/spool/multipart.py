"""An incremental `multipart/form-data` parser, and edits that leave other parts unchanged.

The parser is fed the body as it arrives. It never copies or keeps the file, but records the offsets
of each part. So an upload can be forwarded as the original bytes, with a few fields replaced by
`Edit`s. Small fields are kept whole, within bounds. Rules: RFC 7578 and RFC 2046. Each limit has
its reason beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import Final, NamedTuple

#: A part's headers. Browsers and SDKs send about 150 bytes; python-multipart's limit is 8 KiB too.
MAX_PART_HEAD_BYTES: Final = 8 * 1024
#: vLLM has 30 fields; a list may repeat one a few times.
MAX_PARTS: Final = 256
#: All fields except the file. A prompt has a few hundred words; context lists may be longer.
MAX_FIELD_BYTES: Final = 1024 * 1024
#: RFC 2046 allows 70; some clients send longer ones.
MAX_BOUNDARY_BYTES: Final = 256

_PARAMETER: Final = re.compile(
    rb';\s*([!#$%&\'*+\-.^_`|~0-9A-Za-z]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))'
)
#: The Content-Type that nearly all clients send, up to its boundary; any other is fully parsed.
_USUAL_CONTENT_TYPE: Final = b"multipart/form-data; boundary="
#: The part header of curl, browsers and SDKs, parsed in one step; any other is parsed by line.
_USUAL_PART_HEAD: Final = re.compile(
    rb'\r\nContent-Disposition: form-data; name="([^"\\\r\n]*)"(?:; filename="([^"\\\r\n]*)")?'
    rb"(?:\r\nContent-Type: ([^\r\n]*))?",
    re.IGNORECASE,
)


class BadForm(ValueError):
    """The body is not a well-formed multipart form; the message says where."""


class FormPart(NamedTuple):
    """One part of a form, located by offsets in the body.

    Attributes:
        name: Field name.
        filename: The file name; None for a plain field.
        content_type: The part's own content type; None if absent.
        start: Offset of the first content byte in the body.
        end: Offset after the last content byte.
        value: The content of a plain field; None for the file, which is never kept here.
    """

    name: str
    filename: str | None
    content_type: bytes | None
    start: int
    end: int
    value: bytes | None


@dataclass(slots=True)
class Form:
    """A completely parsed form.

    Attributes:
        parts: In the order sent.
        close_at: Offset of the CRLF before the closing boundary, where a new part may be inserted.
        boundary: The boundary, without its dashes.
        fields: The plain fields' bytes. If a name is repeated, the last one counts, as in
            Starlette, which vLLM uses.
    """

    parts: tuple[FormPart, ...]
    close_at: int
    boundary: bytes
    fields: dict[str, bytes] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.fields = fields = {}
        for part in self.parts:
            if part.value is not None:
                fields[part.name] = part.value

    def value(self, name: str) -> bytes | None:
        """Return a plain field's bytes."""
        return self.fields.get(name)

    def values(self, name: str) -> list[bytes]:
        """Return every value of a field that may be repeated."""
        return [p.value for p in self.parts if p.name == name and p.value is not None]

    def file(self, name: str = "file") -> FormPart | None:
        """Return the file part of that name, the last one if repeated."""
        found = None
        for part in self.parts:
            if part.name == name and part.filename is not None:
                found = part
        return found

    def changed(self, name: str, value: bytes) -> list[Edit]:
        """Return the edits that set every field of that name to a new value; none if absent."""
        return [Edit(p.start, p.end, value) for p in self.parts if p.name == name]

    def replaced(self, name: str, value: bytes) -> list[Edit]:
        """Return the edits that set every field of that name to a new value, or add it."""
        return self.changed(name, value) or [self.added(name, value)]

    def removed(self, *names: str) -> list[Edit]:
        """Return the edits that remove every field of these names; none if all are absent.

        Remove all names in one call: separate edits may leave a line end before the first boundary.
        """
        edits: list[Edit] = []
        # For the first part, remove the line end after it, so that the next boundary begins the
        # body. For any other part, remove the boundary before it.
        start, line_end = 0, 2
        for part in self.parts:
            if part.name in names:
                edits.append(Edit(start, part.end + line_end, b""))
                start = part.end + line_end
            else:
                start, line_end = part.end, 0
        return edits

    def added(self, name: str, value: bytes) -> Edit:
        """Return the edit that appends one plain field."""
        head = b'\r\n--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n'
        return Edit(self.close_at, self.close_at, head % (self.boundary, name.encode()) + value)


@dataclass(frozen=True, slots=True)
class Edit:
    """Replaces the body's bytes from `start` to `end` by `data`."""

    start: int
    end: int
    data: bytes


def boundary_of(content_type: bytes) -> bytes | None:
    """Return a Content-Type's boundary, or None if it is not multipart/form-data.

    Raises:
        BadForm: It is multipart/form-data with a missing or invalid boundary.
    """
    if content_type.startswith(_USUAL_CONTENT_TYPE):
        usual = content_type[len(_USUAL_CONTENT_TYPE) :]
        # Letters, digits and dashes, as generated by clients.
        if len(usual) <= MAX_BOUNDARY_BYTES and usual.replace(b"-", b"").isalnum():
            return usual
    kind, _, _ = content_type.partition(b";")
    if kind.strip().lower() != b"multipart/form-data":
        return None
    for name, quoted, plain in _PARAMETER.findall(content_type[len(kind) :]):
        if name.lower() == b"boundary":
            boundary = bytes(_unquoted(quoted) if quoted else plain)
            if (
                not 0 < len(boundary) <= MAX_BOUNDARY_BYTES
                or b"\r" in boundary
                or b"\n" in boundary
            ):
                break
            return boundary
    raise BadForm("the Content-Type names no usable boundary")


class _State(Enum):
    CONTENT = auto()  # inside a part, or in the preamble before the first
    BOUNDARY = auto()  # directly after a boundary: "--" ends the form, CRLF starts a part
    HEAD = auto()  # in a part's headers
    END = auto()  # after the closing boundary; an epilogue is ignored


# Enum member lookup is slow before Python 3.12, and each chunk of the body needs these.
_CONTENT: Final[_State] = _State.CONTENT
_BOUNDARY: Final[_State] = _State.BOUNDARY
_HEAD: Final[_State] = _State.HEAD
_END: Final[_State] = _State.END


class FormReader:
    """Parses one form from consecutive chunks of its body.

    Args:
        boundary: As returned by `boundary_of`.
    """

    __slots__ = (
        "_boundary",
        "_carry",
        "_close_at",
        "_delimiter",
        "_field_bytes",
        "_head",
        "_kept",
        "_offset",
        "_part",
        "_parts",
        "_shift",
        "_state",
    )

    def __init__(self, boundary: bytes) -> None:
        self._boundary = boundary
        self._delimiter = b"\r\n--" + boundary
        # The first boundary may be at the very beginning: parse as if a CRLF preceded it.
        self._carry = b"\r\n"
        self._state = _CONTENT
        self._offset = 0
        self._shift = 0
        self._head = bytearray()
        self._kept: bytearray | None = None
        self._part: tuple[str, str | None, bytes | None, int] | None = None
        self._parts: list[FormPart] = []
        self._field_bytes = 0
        self._close_at = 0

    @property
    def parts(self) -> list[FormPart]:
        """The parts that are complete so far."""
        return self._parts

    def feed(self, data: bytes | bytearray, start: int, end: int) -> None:
        """Parse `data[start:end]`, the body's next bytes.

        Raises:
            BadForm: The body violates the rules or a bound.
        """
        self._shift = self._offset - start
        self._offset += end - start
        at = start
        while at < end:
            state = self._state
            if state is _CONTENT:
                at = self._content(data, at, end)
            elif state is _BOUNDARY:
                at = self._behind_boundary(data, at, end)
            elif state is _HEAD:
                at = self._part_head(data, at, end)
            else:
                at = end

    def finish(self) -> Form:
        """Return the form after the body has ended.

        Raises:
            BadForm: The closing boundary is missing.
        """
        if self._state is not _END:
            raise BadForm("the form ends before its closing boundary")
        return Form(tuple(self._parts), self._close_at, self._boundary)

    # Each of these methods parses from `at` and returns the offset that it reached.

    def _content(self, data: bytes | bytearray, at: int, end: int) -> int:
        delimiter = self._delimiter
        while at < end and self._state is _CONTENT:
            carry = self._carry
            if carry:
                # A boundary may span two chunks: search where they meet.
                reach = len(delimiter) - 1
                window = carry + data[at : min(end, at + reach)]
                seam = window.find(delimiter)
                if seam >= 0:
                    at = self._take_boundary(data, at, at - len(carry) + seam, end)
                    continue
                if end - at < reach:
                    self._carry = bytes(window[-reach:])
                    if self._kept is not None:
                        self._keep(data, at, end)
                    return end
            found = data.find(delimiter, at, end)
            if found < 0:
                # A possible beginning of a boundary is examined again with the next chunk.
                tail = bytes(data[max(at, end - len(delimiter) + 1) : end])
                start = tail.find(b"\r")
                self._carry = tail[start:] if start >= 0 else b""
                if self._kept is not None:
                    self._keep(data, at, end)
                return end
            at = self._take_boundary(data, at, found, end)
        return at

    def _keep(self, data: bytes | bytearray, at: int, end: int) -> None:
        assert self._kept is not None
        self._field_bytes += end - at
        if self._field_bytes > MAX_FIELD_BYTES:
            raise BadForm(f"the fields besides the file are larger than {MAX_FIELD_BYTES} bytes")
        self._kept += data[at:end]

    def _take_boundary(self, data: bytes | bytearray, at: int, found: int, end: int) -> int:
        """End the part whose content starts at `at` and ends at a boundary, and begin the next one.

        Args:
            found: Offset of the boundary; before `data` if it began in the previous chunk.

        Returns:
            Where to continue parsing: after the next part's headers if this chunk holds all of
            them, as is usual; else after the boundary.
        """
        kept = self._kept
        if kept is not None:
            self._keep(data, at, max(at, found))
        self._carry = b""
        # The form's content ends before the CRLF of the closing boundary.
        self._close_at = stop = self._shift + found
        if self._part is not None:
            name, filename, content_type, start = self._part
            # If a boundary spans two chunks, its first bytes were kept with the value.
            value = None if kept is None else bytes(kept[: stop - start])
            self._parts.append(FormPart(name, filename, content_type, start, stop, value))
            self._part = self._kept = None
            if len(self._parts) > MAX_PARTS:
                raise BadForm(f"the form has more than {MAX_PARTS} parts")
        behind = found + len(self._delimiter)
        if data.startswith(b"--", behind, end):
            self._state = _END
            return behind + 2
        head_end = data.find(b"\r\n\r\n", behind, min(end, behind + MAX_PART_HEAD_BYTES))
        if head_end > behind:
            head = bytes(data[behind:head_end])
            if head.startswith(b"\r\n"):
                self._begin_part(head, head_end + 4)
                return head_end + 4
        self._state = _BOUNDARY
        return behind

    def _behind_boundary(self, data: bytes | bytearray, at: int, end: int) -> int:
        head = self._head
        # Blanks before the line end (RFC 2046's transport padding) are rejected: clients do not
        # send them, and vLLM would parse a different form.
        behind = min(end, at + 2 - len(head))
        head += data[at:behind]
        if head == b"\r\n":
            # Keep it as part of the headers: a part without headers has only the empty line.
            self._state = _HEAD
            return self._part_head(data, behind, end)
        if head == b"--":
            self._state = _END
        elif len(head) == 2:
            at = self._shift + behind
            raise BadForm(f"a boundary before byte {at} is not followed by a line end")
        return behind

    def _part_head(self, data: bytes | bytearray, at: int, end: int) -> int:
        head = self._head
        before = len(head)
        near = data.find(b"\r\n\r\n", at, min(end, at + MAX_PART_HEAD_BYTES))
        # The bytes after the headers belong to the file and must not be copied.
        reached = near + 4 if near >= 0 else min(end, at + MAX_PART_HEAD_BYTES)
        head += data[at:reached]
        stop = head.find(b"\r\n\r\n", max(0, before - 3))
        if stop < 0:
            if len(head) > MAX_PART_HEAD_BYTES:
                raise BadForm(f"a part's headers are larger than {MAX_PART_HEAD_BYTES} bytes")
            return reached
        at += stop + 4 - before
        self._begin_part(bytes(head[:stop]), at)
        head.clear()
        return at

    def _begin_part(self, head: bytes, at: int) -> None:
        name, filename, content_type = _read_part_head(head)
        self._part = (name, filename, content_type, self._shift + at)
        self._kept = bytearray() if filename is None else None
        self._state = _CONTENT


# Clients send the same few headers repeatedly. MAX_PART_HEAD_BYTES bounds each entry.
@lru_cache(maxsize=256)
def _read_part_head(head: bytes) -> tuple[str, str | None, bytes | None]:
    """Parse a part's headers, from the line end after the boundary to before the empty line."""
    usual = _USUAL_PART_HEAD.fullmatch(head)
    if usual is not None:
        name, filename, content_type = usual.groups()
        return (
            name.decode("utf-8", "replace"),
            None if filename is None else filename.decode("utf-8", "replace"),
            None if content_type is None else content_type.strip(),
        )
    return _read_any_part_head(head)


def _read_any_part_head(head: bytes) -> tuple[str, str | None, bytes | None]:
    name = filename = extended = None
    content_type = None
    is_disposed = False
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        key = key.strip().lower()
        if key == b"content-type":
            content_type = value.strip()
        elif key == b"content-disposition":
            kind, _, _ = value.partition(b";")
            if is_disposed:
                raise BadForm("a part has two Content-Dispositions")
            is_disposed = True
            if kind.strip().lower() != b"form-data":
                raise BadForm("a part's Content-Disposition is not form-data")
            for parameter, quoted, plain in _PARAMETER.findall(value[len(kind) :]):
                key = parameter.lower()
                text = _unquoted(quoted) if quoted else plain
                if key == b"name":
                    name = text.decode("utf-8", "replace")
                elif key == b"filename":
                    filename = text.decode("utf-8", "replace")
                elif key == b"filename*":
                    extended = text.decode("latin-1")
    if name is None:
        raise BadForm("a part has no name")
    return name, filename if filename is not None else extended, content_type


def _unquoted(text: bytes) -> bytes:
    # Browsers send %22 for a quote; older clients a backslash. A lone backslash is a Windows path.
    return text.replace(b'\\"', b'"')
