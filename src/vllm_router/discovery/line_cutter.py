"""Splits a stream of bytes into lines.

Promises: the same lines however the stream is divided, in linear time. Bounds: a line of more than
``max_bytes`` is an error as soon as it is known, so a stream without line breaks cannot fill the
memory.
"""


class LineTooLong(ValueError):
    """A line exceeds the limit."""


class LineCutter:
    """Splits at ``\\n``; drops empty lines and holds back an unfinished last line."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that end in this chunk.

        Raises:
            LineTooLong: A line, finished or not, exceeds ``max_bytes``.
        """
        first, *rest = data.split(b"\n")
        lines = []
        if rest:
            lines.append(b"".join((*self._held, first)))
            lines.extend(rest[:-1])
            self._held.clear()
            self._held_bytes = 0
            first = rest[-1]
        if first:
            self._held.append(first)
            self._held_bytes += len(first)
        if max((len(line) for line in lines), default=0) > self._max_bytes or (
            self._held_bytes > self._max_bytes
        ):
            raise LineTooLong(f"a line exceeds {self._max_bytes} bytes")
        return [line for line in lines if line]
