"""The engines' HTTP client against engines that say exactly what they are told, on both loops."""

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest
import trustme
from tests.server.conftest import event_loop_policy
from tests.upstream.calls import BIG, EVENTS, SlowBody, call
from tests.upstream.raw_engine import (
    CALM,
    OK,
    Peer,
    answering,
    http_client,
    raw_engine,
    saying,
    until,
)

from vllm_router.upstream.call import (
    Body,
    BytesBody,
    ConnectionBroke,
    NotConnected,
)
from vllm_router.upstream.http_client import (
    MAX_IDLE,
    HttpClient,
)
from vllm_router.upstream.origin import Origin

__all__ = ["event_loop_policy"]


# --- what goes out


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize("data", [b"", b"small", BIG])
async def test_a_request_goes_out_whole(data: bytes, is_slow: bool) -> None:
    got: list[tuple[bytes, bytes]] = []

    async def script(peer: Peer) -> None:
        while True:
            got.append(await peer.request())
            await peer.say(OK)

    async with raw_engine(script) as engine, http_client() as client:
        for _ in range(2):
            body: Body = SlowBody(data) if is_slow else BytesBody(data[:7], b"", data[7:])
            answer = await call(client, engine.origin, body)
            assert (answer.status, answer.body) == (200, b"ok")
            answer.close()
        assert engine.connections == 1
        expected = b"POST /v1/x HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nx-a: b\r\n" % engine.port
        expected += b"content-length: %d\r\n\r\n" % len(data)
        assert got == [(expected, data)] * 2


async def test_a_question_without_a_body_has_no_length() -> None:
    got: list[bytes] = []

    async def script(peer: Peer) -> None:
        got.append((await peer.request())[0])
        await peer.say(OK)

    async with raw_engine(script) as engine, http_client() as client:
        origin = Origin.of(f"http://127.0.0.1:{engine.port}/prefix/")
        answer = await client.call(origin, b"GET", b"/health", [], BytesBody(), CALM)
        answer.close()
    assert got[0].startswith(b"GET /prefix/health HTTP/1.1\r\n")
    assert b"content-length" not in got[0]


async def test_a_body_may_be_gathered_from_bytes() -> None:
    body = BytesBody(b"one ", b"two")
    assert [b"".join(piece) async for piece in body.pieces()] == [b"one two"]


# --- keeping connections


async def test_a_connection_is_used_again_and_a_stale_one_is_no_failure() -> None:
    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        # Gone in the moment the next request comes.
        await peer.reader.readexactly(1)
        peer.reset()

    async with raw_engine(once, answering) as engine, http_client() as client:
        (await call(client, engine.origin)).close()
        again = await call(client, engine.origin, SlowBody(b"x" * 300_000))
        assert again.body == b"ok"
        again.close()
        assert engine.connections == 2


async def test_an_engine_that_ends_on_a_connection_used_before_was_at_work() -> None:
    """Not stale: nobody is there to take the request again."""

    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        await peer.request()
        engine.close()
        peer.reset()

    async with raw_engine(once) as engine, http_client() as client:
        (await call(client, engine.origin)).close()
        with pytest.raises(ConnectionBroke) as error:
            await call(client, engine.origin)
        assert error.value.is_at_work


@pytest.mark.parametrize(
    ("said", "is_at_work"),
    [
        (b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbeg", False),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n", True),
    ],
)
async def test_an_answer_that_comes_whole_says_that_the_work_was_done(
    said: bytes, is_at_work: bool
) -> None:
    async with raw_engine(saying(said, then="reset")) as engine, http_client() as client:

        async def take_all() -> None:
            answer = await call(client, engine.origin)
            async for _ in answer.chunks():
                pass

        with pytest.raises(ConnectionBroke) as error:
            await take_all()
        assert error.value.is_at_work is is_at_work


async def test_a_connection_that_breaks_after_its_first_byte_is_a_failure() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun")
        peer.close()

    async with raw_engine(script, answering) as engine, http_client() as client:
        (await call(client, engine.origin)).close()
        with pytest.raises(ConnectionBroke):
            await call(client, engine.origin)
        assert engine.connections == 1


async def test_a_connection_closed_while_idle_is_not_used() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        peer.close()

    async with raw_engine(script) as engine, http_client() as client:
        for count in (1, 2):
            (await call(client, engine.origin)).close()
            await until(lambda: not client.open_connections)
            assert engine.connections == count


@pytest.mark.parametrize("line", [b"Connection: close\r\n", b""])
async def test_what_the_engine_says_of_its_connection_holds(line: bytes) -> None:
    version = b"1.1" if line else b"1.0"
    data = b"HTTP/%b 200 OK\r\n%bContent-Length: 2\r\n\r\nok" % (version, line)
    async with raw_engine(saying(data)) as engine, http_client() as client:
        answer = await call(client, engine.origin)
        answer.close()
        await until(lambda: not client.open_connections)


async def test_no_more_idle_connections_are_kept_than_a_burst_needs() -> None:
    async with raw_engine(answering) as engine, http_client() as client:
        count = MAX_IDLE + 6
        answers = await asyncio.gather(*[call(client, engine.origin) for _ in range(count)])
        assert engine.connections == count
        for answer in answers:
            answer.close()
        await until(lambda: client.open_connections == MAX_IDLE)
        client.sweep()
        assert client.open_connections == MAX_IDLE


async def test_idle_connections_are_left_before_the_engine_leaves_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with raw_engine(answering) as engine, http_client() as client:
        (await call(client, engine.origin)).close()
        loop = asyncio.get_running_loop()
        [connection] = client._open
        connection._idle_since = loop.time() - 10
        client.sweep()
        await until(lambda: not client.open_connections)
        (await call(client, engine.origin)).close()
        [connection] = client._open
        connection._idle_since = loop.time() - 10
        (await call(client, engine.origin)).close()
        assert engine.connections == 3
        assert "127.0.0.1" in repr(connection)


# --- leaving


@pytest.mark.parametrize("stage", ["connected", "half sent", "sent", "half answered"])
@pytest.mark.parametrize("is_slow", [False, True])
async def test_cancelling_frees_the_engine_at_once(stage: str, is_slow: bool) -> None:
    reached = asyncio.Event()

    async def script(peer: Peer) -> None:
        if stage == "half sent":
            await peer.reader.readuntil(b"\r\n\r\n")
        elif stage != "connected":
            await peer.request()
        if stage == "half answered":
            await peer.say(OK[:-1])
        reached.set()
        if stage == "half sent":
            await asyncio.sleep(0.05)
        await peer.left()

    async with raw_engine(script) as engine, http_client() as client:
        data = BIG * 8 if stage == "half sent" else b"x" * 200_000
        body = SlowBody(data) if is_slow else BytesBody(data)
        task = asyncio.ensure_future(call(client, engine.origin, body))
        await reached.wait()
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: engine.gone == 1)
        await until(lambda: not client.open_connections)
        if isinstance(body, SlowBody):
            assert body.is_closed


async def test_closing_a_stream_early_frees_the_engine() -> None:
    async with raw_engine(saying(EVENTS + b"5\r\nfirst\r\n")) as engine, http_client() as client:
        answer = await call(client, engine.origin)
        answer.close()
        await until(lambda: engine.gone == 1)


async def test_a_body_that_cannot_be_read_fails_the_call_and_frees_the_engine() -> None:
    async with raw_engine(saying()) as engine, http_client() as client:
        with pytest.raises(OSError, match="disk"):
            await call(client, engine.origin, SlowBody(b"x" * 500_000, error=OSError("disk")))
        await until(lambda: engine.gone == 1)


# --- TLS


async def test_engines_are_reached_by_tls_only_under_their_name(tmp_path: Path) -> None:
    authority = trustme.CA()
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_tls)
    client_tls = ssl.create_default_context()
    authority.configure_trust(client_tls)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await answering(Peer(reader, writer))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls, limit=1 << 24)
    port = server.sockets[0].getsockname()[1]
    trusting, strange = HttpClient(client_tls), HttpClient()
    for _ in range(2):
        answer = await call(trusting, Origin.of(f"https://localhost:{port}"), BytesBody(BIG))
        assert answer.body == b"ok"
        answer.close()
    assert trusting.open_connections == 1
    with pytest.raises(NotConnected, match="TLS"):
        await call(trusting, Origin.of(f"https://127.0.0.1:{port}"))
    with pytest.raises(NotConnected, match="TLS"):
        await call(strange, Origin.of(f"https://localhost:{port}"))
    trusting.close()
    server.close()
    await until(lambda: not trusting.open_connections)
