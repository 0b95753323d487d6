"""Which headers pass between a client and an engine, in both directions.

End-to-end headers pass as they are. What is meant for one hop only stays on it, and so does what
would mean something else on the other side: credentials, framing, addresses inside, and what the
router says itself.
"""

from __future__ import annotations

from typing import Final

from vllm_router.server.exchange import Exchange

Headers = list[tuple[bytes, bytes]]

#: RFC 9110, 7.6.1, and what proxies have always treated alike.
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
#: Headers of a client that never reach an engine: its credentials, what we frame or name ourselves,
#: what claims to come from a proxy, and what steers vLLM itself.
WITHHELD: Final = HOP_BY_HOP | {
    b"accept-encoding",
    b"authorization",
    b"content-length",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    # A CGI program behind the engine would take it for its proxy (CVE-2016-5385).
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
#: Headers of an engine that never reach a client.
REPLACED: Final = HOP_BY_HOP | {
    # What the router frames, names or says itself.
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
    # What leads to addresses that only the router can reach.
    b"alt-svc",
    b"content-location",
    b"location",
    b"refresh",
    b"via",
    # What would speak for the router's own host name, or of the key between router and engine.
    b"authentication-info",
    b"clear-site-data",
    b"set-cookie",
    b"strict-transport-security",
    b"www-authenticate",
    # What has a proxy in front of the router send a file of its own in the answer's place.
    b"x-accel-redirect",
    b"x-sendfile",
}
#: Without it a body cannot be read, so no Connection header takes it away (RFC 9110, 7.6.1, forbids
#: to name it there).
_KEPT: Final = frozenset({b"content-type"})


def engine_headers(
    exchange: Exchange, engine_key: str | None, content_type: bytes | None = None
) -> Headers:
    """Return the headers that an engine gets with each call for a request.

    Each call has an X-Request-Id of its own besides (`relay.CallIds`).

    Args:
        exchange: The client's request.
        engine_key: Sent as a bearer token.
        content_type: In place of the client's, for a body that is not the client's.
    """
    out = _end_to_end(exchange.head.headers, WITHHELD)
    if content_type is not None:
        out = [header for header in out if header[0] != b"content-type"]
        out.append((b"content-type", content_type))
    if engine_key is not None:
        out.append((b"authorization", b"Bearer " + engine_key.encode()))
    return out


def client_headers(headers: Headers, engine_id: str) -> Headers:
    """Return the headers that a client gets with an engine's answer.

    Args:
        headers: The engine's, with lower-case names.
        engine_id: Sent as X-Engine-Id.
    """
    out = _end_to_end(headers, REPLACED)
    out.append((b"x-engine-id", engine_id.encode()))
    return out


def _end_to_end(headers: Headers, hidden: frozenset[bytes]) -> Headers:
    """Return headers but for the hidden ones and those that a Connection header nominates."""
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
