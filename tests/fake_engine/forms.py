"""Building multipart bodies by hand, as the tests of the local engines want them."""

BOUNDARY = b"XboundaryX"
CONTENT_TYPE = b"multipart/form-data; boundary=" + BOUNDARY


def field(name: str, value: bytes) -> bytes:
    """Return a plain field with its leading delimiter."""
    head = f'Content-Disposition: form-data; name="{name}"'.encode()
    return b"--" + BOUNDARY + b"\r\n" + head + b"\r\n\r\n" + value + b"\r\n"


def file(data: bytes, filename: str = "a.wav", name: str = "file") -> bytes:
    """Return a file with its leading delimiter."""
    head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"'.encode()
    kind = b"\r\nContent-Type: audio/wav\r\n\r\n"
    return b"--" + BOUNDARY + b"\r\n" + head + kind + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    """Return a whole body."""
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


def request(body: bytes, path: str = "/v1/audio/transcriptions", extra: bytes = b"") -> bytes:
    """Return a whole HTTP request."""
    return (
        b"POST "
        + path.encode()
        + b" HTTP/1.1\r\nHost: test\r\nContent-Type: "
        + CONTENT_TYPE
        + b"\r\n"
        + extra
        + b"Content-Length: %d\r\n\r\n" % len(body)
        + body
    )
