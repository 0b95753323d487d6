"""An ASGI bridge for every route that carries no upload.

Bodies are small and complete before the application is called, so `receive` returns one message and
then waits for the client to disconnect. Source: the ASGI HTTP specification, version 2.4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from vllm_router.server.exchange import AnswerBody, Exchange, Headers

Message = MutableMapping[str, Any]
ASGIApp = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[Message]],
        Callable[[Message], Awaitable[None]],
    ],
    Awaitable[None],
]

#: The exchange frames the response itself.
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})
#: The application builds the whole response, so that HEAD gets the same headers as GET. The
#: exchange omits the body.
_ASKED = {"HEAD": "GET"}


async def serve_asgi(app: ASGIApp, exchange: Exchange, body: bytes, root_path: str = "") -> None:
    """Serve one exchange with an ASGI application.

    The application sees HEAD as GET, and paths without a trailing slash: both are the same route.

    Args:
        app: The application.
        exchange: The exchange to answer. It stays unanswered if the application raises before its
            first message.
        body: The complete request body.
        root_path: Path prefix added by a reverse proxy, for links that the application builds.
    """
    head = exchange.head
    path, raw_path = head.path, head.raw_path
    if len(path) > 1 and path.endswith("/"):
        path, raw_path = path[:-1], raw_path.removesuffix(b"/")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": head.http_version,
        "method": _ASKED.get(head.method, head.method),
        "scheme": "http",
        "path": path,
        "raw_path": raw_path,
        "query_string": head.query,
        "root_path": root_path,
        "headers": head.headers,
        "client": (exchange.client, 0),
        "server": None,
        "state": {},
    }
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    started: list[tuple[int, Headers, int | None]] = []
    writing: list[AnswerBody] = []

    async def receive() -> Message:
        if messages:
            return messages.pop()
        # The connection cancels this task when the client disconnects. Until then there is no
        # event.
        message: Message = await asyncio.get_running_loop().create_future()
        return message

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = [(k.lower(), v) for k, v in message.get("headers", ())]
            kept = [header for header in given if header[0] not in _FRAMING]
            lengths = [int(v) for k, v in given if k == b"content-length"]
            started.append((message["status"], kept, lengths[0] if lengths else None))
            return
        data, more = message.get("body", b""), message.get("more_body", False)
        if exchange.status is None:
            status, headers, length = started[0]
            if not more:
                exchange.respond(status, headers, data)
                return
            writing.append(exchange.begin(status, headers, length))
        answer = writing[0]
        answer.write(data)
        await answer.drain()
        if not more:
            answer.end()

    await app(scope, receive, send)
