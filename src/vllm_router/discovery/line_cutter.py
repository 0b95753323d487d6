"""Cutting a stream of bytes into lines.

Promises: the same lines whatever the pieces they come in, and time linear in the bytes. Bounds: a
line of more than ``max_bytes`` is an error as soon as it is known, so that a stream without line
ends cannot fill the memory.
"""


class LineTooLong(ValueError):
    """A line passes the bound."""


class LineCutter:
    """Cuts at ``\\n``; empty lines are dropped, and a last line without its end is not given."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that end in this piece.

        Raises:
            LineTooLong: a line, finished or not, passes ``max_bytes``.
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
            raise LineTooLong(f"a line passes {self._max_bytes} bytes")
        return [line for line in lines if line]
