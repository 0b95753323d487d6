"""The bridge to ASGI applications, over loopback sockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.server.serving import Client, Service, client, get, post, until

from vllm_router.server.asgi import serve_asgi
from vllm_router.server.exchange import Exchange
from vllm_router.server.listener import Listener


class Bridged(Service):
    """Answers everything by an application."""

    application: Callable[..., Awaitable[None]]

    async def answer(self, exchange: Exchange, body: bytes) -> None:
        await serve_asgi(type(self).application, exchange, body, "/mounted")


Scope = dict[str, Any]
seen: list[Scope] = []


async def application(scope: Scope, receive: Any, send: Any) -> None:
    path = scope["path"]
    request = await receive()
    if path == "/leaves":
        try:
            await receive()
        finally:
            scope["has_left"] = True
            seen.append(scope)
    if path == "/raises":
        raise RuntimeError("a mistake")
    headers = [(b"content-type", b"text/plain"), (b"Content-Length", b"999"), (b"x-a", b"b")]
    if path == "/stream":
        headers = []
    elif path == "/file":
        headers = [(b"Content-Length", b"7")]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    if path == "/silent":
        return
    if path in ("/stream", "/file"):
        for piece in (b"one ", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})
        return
    seen.append(scope)
    await send({"type": "http.response.body", "body": b"got " + request["body"]})


Bridged.application = staticmethod(application)


@pytest.fixture
async def bridged() -> AsyncIterator[tuple[Client, Bridged]]:
    seen.clear()
    service = Bridged()
    listener = Listener(service)
    server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
    async with client(server.sockets[0].getsockname()[1]) as one:
        yield one, service
    server.close()
    await until(lambda: not listener.connections)


async def test_the_application_gets_the_request_and_its_answer_is_framed_anew(
    bridged: tuple[Client, Bridged],
) -> None:
    one, _ = bridged
    one.send(post("/a%20b?x=1", b"body", b"X-Y: z"))
    head, body = await one.answer()
    assert head.startswith(b"HTTP/1.1 201 ")
    assert head.lower().count(b"content-length") == 1
    assert b"x-a: b" in head
    assert body == b"got body"
    [scope] = seen
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("POST", "/a b", b"/a%20b")
    assert (scope["query_string"], scope["root_path"]) == (b"x=1", "/mounted")
    assert (b"x-y", b"z") in scope["headers"]


async def test_a_streamed_answer_is_passed_on(bridged: tuple[Client, Bridged]) -> None:
    one, _ = bridged
    one.send(get("/stream"))
    assert (await one.answer())[1] == b"one two"


async def test_a_declared_length_of_a_streamed_answer_is_kept(
    bridged: tuple[Client, Bridged],
) -> None:
    one, _ = bridged
    one.send(get("/file"))
    head, body = await one.answer()
    assert b"content-length: 7\r\n" in head
    assert body == b"one two"


@pytest.mark.parametrize("path", ["/a", "/stream", "/file"])
async def test_head_has_the_headers_of_get_and_no_body(
    bridged: tuple[Client, Bridged], path: str
) -> None:
    one, _ = bridged
    one.send(get(path))
    whole, _ = await one.answer()
    one.send(get(path).replace(b"GET", b"HEAD") + get("/next"))
    assert await one.reader.readuntil(b"\r\n\r\n") == whole
    assert b" 201 " in (await one.answer())[0]


@pytest.mark.parametrize(
    ("sent", "path", "raw"),
    [("/a%20b/", "/a b", b"/a%20b"), ("/", "/", b"/"), ("/a//", "/a/", b"/a/")],
)
async def test_a_slash_at_the_end_makes_no_difference(
    bridged: tuple[Client, Bridged], sent: str, path: str, raw: bytes
) -> None:
    one, _ = bridged
    one.send(get(sent))
    await one.answer()
    [scope] = seen
    assert (scope["path"], scope["raw_path"]) == (path, raw)


async def test_an_application_that_raises_is_a_500(bridged: tuple[Client, Bridged]) -> None:
    one, service = bridged
    one.send(get("/raises"))
    assert b" 500 " in (await one.answer())[0]
    assert len(service.failures) == 1


async def test_an_answer_without_a_body_message_is_cut(bridged: tuple[Client, Bridged]) -> None:
    one, _ = bridged
    one.send(get("/silent"))
    assert await one.rest() == b""


async def test_an_application_that_waits_for_its_client_is_ended_by_its_leaving(
    bridged: tuple[Client, Bridged],
) -> None:
    one, _ = bridged
    one.send(get("/leaves"))
    await asyncio.sleep(0.02)
    one.reset()
    await until(lambda: seen and seen[0]["has_left"])
