"""Hostile bytes on a router's socket: each must be answered or cut soon, and never by a 500."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.fuzz.targets import mutated
from tests.routers import MODEL, file, form, request
from tests.routers import field as plain
from tests.server.test_head import REQUEST_LINES, SMUGGLED

from vllm_router.audio.wav import silence

#: Whatever takes longer hangs.
PATIENCE_S = 30.0
UPLOAD = request(form(plain("model", MODEL), file(silence(0.05))))
ROUTES = ["/", "/health", "/ready", "/v1/models", "/engines", "/metrics", "/version", "/docs"]


def corpus() -> Iterator[bytes]:
    """Yield what has hurt others."""
    for lines in SMUGGLED.values():
        yield b"\r\n".join(
            [b"POST /v1/audio/transcriptions HTTP/1.1", b"Host: a", *lines, b"", b"x"]
        )
    for line in REQUEST_LINES:
        yield line + b"\r\nHost: a\r\n\r\n"
    for path in ROUTES:
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"):
            yield f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode()
    yield from _edges()
    yield from (b"", b"\0", b"\r\n" * 1000, b"\n" * 1000, b"\xff" * 100_000, b"A" * 100_000)
    for target in (b"/%", b"/%00", b"/../../etc/passwd", b"/" + b"a/" * 5000, b"/?" + b"&" * 9000):
        yield b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    head, _, body = UPLOAD.partition(b"\r\n\r\n")
    for kind in (
        b"multipart/form-data",
        b"multipart/form-data; boundary=" + b"x" * 300,
        b'multipart/form-data; boundary="\\"',
        b"text/plain",
    ):
        lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Type")]
        yield b"\r\n".join([*lines, b"Content-Type: " + kind, b"", body])
    for name, value in (
        ("model", b"\xff\xfe"),
        ("model", b"\0"),
        ("model", b"../../x" * 1000),
        ("language", b"\xed\xa0\x80"),
        ("response_format", b"\xf0\x9f\x92\xa9"),
        ("temperature", b"NaN"),
        ("stream", b"maybe"),
        ("timestamp_granularities[]", b"eons"),
    ):
        part = b'--test-boundary-7c1e\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        yield request(
            form(plain("model", MODEL), part % (name.encode(), value), file(silence(0.05)))
        )
    for sound in (b"", b"RIFF", b"RIFF\xff\xff\xff\xffWAVEfmt ", bytes(5000), b"OggS" * 99):
        yield request(form(plain("model", MODEL), file(sound)))


def _edges() -> Iterator[bytes]:
    """Yield preflights, heads alone, slashes and Connection lines."""
    ask = b"Origin: http://a\r\nAccess-Control-Request-Method: POST\r\n"
    names = b"Access-Control-Request-Headers: "
    for path in (*ROUTES, "*", "/v1/audio/transcriptions", "/engines/x/drain/", "//", "/v1/"):
        for slash in ("", "/"):
            line = f" {path}{slash} HTTP/1.1\r\nHost: a\r\n".encode()
            yield b"HEAD" + line + b"\r\n"
            yield b"OPTIONS" + line + ask + names + b"authorization\r\n\r\n"
    line = b"OPTIONS /health HTTP/1.1\r\nHost: a\r\n" + ask
    for value in (b"x" * 9000, b"a\tb", b",,,", b"\xff", b"a," * 500, b"(", b""):
        yield line + names + value + b"\r\n\r\n"
        yield line.replace(b"http://a", value) + b"\r\n"
        yield UPLOAD.replace(b"\r\n", b"\r\nConnection: x\r\nConnection: " + value + b"\r\n", 1)
    yield line + b"Content-Length: 2000000\r\n\r\n" + bytes(2_000_000)
    yield line + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    yield line + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc" + line + b"\r\n"


def endless(seed: int) -> Iterator[bytes]:
    """Yield the corpus, then mutations of it and of good requests for ever."""
    rng = random.Random(seed)
    seeds = list(corpus())
    yield from seeds
    seeds += [UPLOAD] * len(seeds)
    while True:
        yield mutated(rng.choice(seeds), rng)


@dataclass
class Tally:
    """What was tried, and what went wrong."""

    tried: int = 0
    answered: int = 0
    bad: list[tuple[bytes, bytes]] = field(default_factory=list)
    hung: list[bytes] = field(default_factory=list)


async def shoot(port: int, data: bytes, tally: Tally) -> None:
    """Send one input, shut our side, and wait for the end."""
    tally.tried += 1
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                half = len(data) // 2
                for part in (data[:half], data[half:]):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
                # An upload's client that shuts its side has left: wait for the answer first.
                if data.startswith(b"POST /v1/audio") and tally.tried % 2:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.3):
                            answer = await reader.read(1 << 16)
                writer.write_eof()
                while piece := await reader.read(1 << 16):
                    answer += piece
    except TimeoutError:
        tally.hung.append(data)
    finally:
        writer.transport.abort()
    tally.answered += bool(answer)
    if any(status in answer for status in (b"HTTP/1.1 500", b"HTTP/1.1 501")):
        tally.bad.append((data, answer))
    head = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")[0]
    if head.startswith(b"HTTP/1.1 ") and head.count(b"\r\ndate: ") != 1:
        tally.bad.append((data, answer))


async def shoot_all(port: int, inputs: Iterator[bytes], seconds: float, count: int) -> Tally:
    """Send inputs, eight at a time, until the time or the count is up."""
    tally = Tally()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds

    async def shooter() -> None:
        while loop.time() < deadline and tally.tried < count:
            data = next(inputs, None)
            if data is None:
                return
            await shoot(port, data, tally)

    await asyncio.gather(*[shooter() for _ in range(8)])
    return tally
