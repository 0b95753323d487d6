"""What every upload needs of its bytes: heads read and written, parts found, a line for the log.

This is what runs interpreted. Where the router is compiled, quick.c stands in its place and does
the same in a fraction of the time: a request's head took 19,000 instructions by way of llhttp and
its callbacks, an answer 13,000. Those that begin with `usual` may give up: then who knows all cases
is asked, as always here. So what they read they read as it would be read there.
"""

from __future__ import annotations

Headers = list[tuple[bytes, bytes]]
Parts = list[tuple[str, str | None, bytes | None, int, int, bytes | None]]


def find(data: bytes | bytearray, needle: bytes, start: int, end: int) -> int:
    """Return where a needle first lies whole in `data[start:end]`, -1 if nowhere.

    Compiled by `memmem`, which takes a third of the time in a whole upload.

    Args:
        data: Where to look.
        needle: Not empty.
        start: Offset in data.
        end: Offset in data, not past its end.
    """
    return data.find(needle, start, end)


def copied(data: bytes | bytearray, start: int, end: int) -> bytes:
    """Return `data[start:end]`, the offsets not past its ends."""
    return bytes(data[start:end])


def log_line(start: str, fields: tuple[object, ...]) -> str:
    """Return a line of a log.

    Args:
        start: How it begins.
        fields: Names and values in turns; a name whose value is None is left out. Values are texts,
            whole numbers of 64 bits, or numbers from 0 to 1e12, which get four decimals.

    Returns:
        The line with its end. Half a surrogate pair becomes a question mark.
    """
    words = [start]
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        if type(value) is float:
            bounded = value if 0.0 <= value <= 1e12 else min(max(value, 0.0), 1e12)
            ticks = int(bounded * 10_000 + 0.5)
            words.append(f"{name}={ticks // 10_000}.{ticks % 10_000:04d}")
        elif value is not None:
            words.append(f"{name}={value}")
    return (" ".join(words) + "\n").encode("utf-8", "replace").decode()


def usual_parts(data: bytes | bytearray, delimiter: bytes, start: int, end: int) -> Parts | None:
    """Return the parts of a usual form that lies whole in `data[start:end]`; None: read on.

    Args:
        data: Where it lies.
        delimiter: What stands between parts: CRLF, two dashes and the boundary.
        start: Where the form begins, with its first boundary.
        end: Where it ends, with its closing boundary and a line end.

    Returns:
        Of each part its name, filename, content type, where in the form its content starts and
        ends, and that content if there is no filename.
    """
    return None


def usual_request(
    data: bytes,
) -> tuple[str, bytes, Headers, dict[bytes, bytes], int | None, bool] | None:
    """Return what the head of a usual HTTP/1.1 request says; None: ask the parser.

    Args:
        data: From the request's first byte to the empty line's last.

    Returns:
        Method, target (a path, maybe a query), headers with lower-case names in the order sent, the
        first of each name, the Content-Length if there is one, and whether the connection is to be
        kept. There is one Host and no Transfer-Encoding.
    """
    return None


def usual_answer(data: bytes) -> tuple[int, Headers, bytes] | None:
    """Return a usual answer that has come whole with its declared length; None: ask the parser.

    Args:
        data: The answer's first bytes, maybe all of it, maybe more.

    Returns:
        Status, headers as `usual_request`, and body. It is no event stream, and leaves the
        connection open.
    """
    return None


def write_head(start: bytes, headers: Headers, rest: bytes) -> bytes:
    """Return a message's head.

    Args:
        start: The first line, with its line end.
        headers: Names and values.
        rest: What follows: more lines and the empty one.
    """
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"".join([start, *lines, rest])
