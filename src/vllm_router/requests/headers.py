"""Which headers pass between client and engine, in both directions.

End-to-end headers pass unchanged. Hop-by-hop headers stay on their hop. Headers that would have
another meaning on the other side are also withheld: credentials, framing, internal addresses, and
headers that the router sets itself.
"""

from __future__ import annotations

from typing import Final

from vllm_router.server.exchange import Exchange

Headers = list[tuple[bytes, bytes]]

#: RFC 9110, 7.6.1, and headers that proxies have always treated alike.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
#: Client headers that never reach an engine: credentials, framing, headers that the router sets,
#: headers that claim to come from a proxy, and headers that control vLLM itself.
WITHHELD: Final = HOP_BY_HOP | {
    b"accept-encoding",
    b"authorization",
    b"content-length",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    # A CGI program behind the engine would take its value for a proxy (CVE-2016-5385).
    b"proxy",
    b"via",
    b"x-api-key",
    b"x-data-parallel-rank",
    b"x-engine-id",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-prefix",
    b"x-forwarded-proto",
    b"x-priority",
    b"x-real-ip",
    b"x-request-id",
    b"x-stream-format",
}
#: Engine headers that never reach a client.
REPLACED: Final = HOP_BY_HOP | {
    # The router frames the response and sets these itself.
    b"access-control-allow-credentials",
    b"access-control-allow-headers",
    b"access-control-allow-methods",
    b"access-control-allow-origin",
    b"access-control-allow-private-network",
    b"access-control-expose-headers",
    b"access-control-max-age",
    b"content-length",
    b"date",
    b"server",
    b"x-engine-id",
    b"x-request-id",
    # These lead to addresses that only the router can reach.
    b"alt-svc",
    b"content-location",
    b"location",
    b"refresh",
    b"via",
    # These would apply to the router's host name, or concern the key between router and engine.
    b"authentication-info",
    b"clear-site-data",
    b"set-cookie",
    b"strict-transport-security",
    b"www-authenticate",
    # These make a proxy in front of the router send a file of its own instead of the response.
    b"x-accel-redirect",
    b"x-sendfile",
}
#: A body is unreadable without it, so no Connection header removes it (RFC 9110, 7.6.1, forbids
#: naming it there).
_KEPT: Final = frozenset({b"content-type"})


def engine_headers(
    exchange: Exchange, engine_key: str | None, content_type: bytes | None = None
) -> Headers:
    """Return the headers sent to an engine with each call for a request.

    Each call also has its own X-Request-Id (`relay.CallIds`).

    Args:
        exchange: The client's request.
        engine_key: Sent as a bearer token.
        content_type: Replaces the client's, for a body that is not the client's.
    """
    out = _end_to_end(exchange.head.headers, WITHHELD)
    if content_type is not None:
        out = [header for header in out if header[0] != b"content-type"]
        out.append((b"content-type", content_type))
    if engine_key is not None:
        out.append((b"authorization", b"Bearer " + engine_key.encode()))
    return out


def client_headers(headers: Headers, engine_id: str) -> Headers:
    """Return the headers sent to a client with an engine's answer.

    Args:
        headers: The engine's, with lower-case names.
        engine_id: Sent as X-Engine-Id.
    """
    out = _end_to_end(headers, REPLACED)
    out.append((b"x-engine-id", engine_id.encode()))
    return out


def _end_to_end(headers: Headers, hidden: frozenset[bytes]) -> Headers:
    """Return the headers that are neither hidden nor nominated by a Connection header."""
    out: Headers = []
    nominated: set[bytes] = set()
    for header in headers:
        name = header[0]
        if name not in hidden:
            out.append(header)
        elif name == b"connection":
            options = header[1].lower()
            if options != b"keep-alive" and options != b"close":
                nominated.update(option.strip() for option in options.split(b","))
    if nominated:
        nominated -= _KEPT
        out = [header for header in out if header[0] not in nominated]
    return out
