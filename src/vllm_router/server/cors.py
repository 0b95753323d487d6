"""Access for pages of other origins: the CORS protocol (fetch.spec.whatwg.org).

Requests carry their key in a header and never in a cookie, so a page gains no access to the router
that it would not have elsewhere. Every origin is therefore allowed unless the operator lists some.
Knows nothing of routes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from vllm_router.server.exchange import Headers
from vllm_router.server.head import RequestHead

ANY: Final = b"*"
#: Chromium caches a preflight response for at most two hours.
MAX_AGE_S: Final = 7200
_ALLOW_ORIGIN: Final = b"access-control-allow-origin"
_EXPOSED: Final = (
    b"access-control-expose-headers",
    b"X-Request-Id, X-Engine-Id, X-Missing-Seconds, X-Audio-Warning, Retry-After",
)
_METHODS: Final = (b"access-control-allow-methods", b"GET, HEAD, POST, OPTIONS")
_AGE: Final = (b"access-control-max-age", b"%d" % MAX_AGE_S)
#: A page lists the headers that it wants to send, usually about ten short names.
_TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_ASKED: Final = re.compile(_TOKEN + rb"(?:[ \t]*,[ \t]*" + _TOKEN + rb")*")
_MAX_ASKED_BYTES: Final = 1024
#: Used if the page lists none or too many: the headers that OpenAI's SDK sends and the router
#: reads.
_USUAL: Final = b", ".join(
    [
        b"Authorization",
        b"Content-Type",
        b"OpenAI-Organization",
        b"OpenAI-Project",
        b"Traceparent",
        b"Tracestate",
        b"X-Priority",
        b"X-Request-Id",
        b"X-Stainless-Arch",
        b"X-Stainless-Helper-Method",
        b"X-Stainless-Lang",
        b"X-Stainless-OS",
        b"X-Stainless-Package-Version",
        b"X-Stainless-Retry-Count",
        b"X-Stainless-Runtime",
        b"X-Stainless-Runtime-Version",
        b"X-Stainless-Timeout",
        b"X-Stream-Format",
    ]
)


class Cors:
    """The origins whose pages may read responses.

    Args:
        origins: "*", or origins as browsers write them, such as https://app.example. If empty,
            pages of other origins are rejected.
    """

    __slots__ = ("_allowed", "_any", "_varied", "is_on")

    def __init__(self, origins: Iterable[str]) -> None:
        self._allowed = frozenset(origin.encode() for origin in origins)
        self.is_on = bool(self._allowed)
        #: The headers for every origin; None if they depend on the origin.
        self._any: Headers | None = None
        #: If they do, a cache must not serve one origin's response to another.
        self._varied: Headers = []
        if ANY in self._allowed:
            self._any = [(_ALLOW_ORIGIN, ANY), _EXPOSED]
        elif self.is_on:
            self._varied = [(b"vary", b"Origin")]

    @property
    def early_headers(self) -> Headers:
        """The headers of an error response to bytes that are not a valid request."""
        return self._any or []

    def headers(self, origin: bytes | None) -> Headers:
        """Return the headers of any response.

        Args:
            origin: The request's Origin; None if it has none and thus comes from no page.

        Returns:
            A list that the caller must not modify.
        """
        if origin is None:
            return self._varied
        if self._any is not None:
            return self._any
        if origin in self._allowed:
            return [(_ALLOW_ORIGIN, origin), _EXPOSED, *self._varied]
        return self._varied

    def allows(self, origin: bytes) -> bool:
        """Return whether pages of this origin may read responses."""
        return self._any is not None or origin in self._allowed

    def is_preflight(self, head: RequestHead) -> bool:
        """Return whether this is a preflight request."""
        return (
            self.is_on
            and head.method == "OPTIONS"
            and head.header(b"origin") is not None
            and head.header(b"access-control-request-method") is not None
        )

    def preflight_headers(self, head: RequestHead) -> Headers:
        """Return the headers of a preflight response, in addition to those of any response."""
        asked = head.header(b"access-control-request-headers") or b""
        if len(asked) > _MAX_ASKED_BYTES or not _ASKED.fullmatch(asked):
            asked = _USUAL
        return [_METHODS, (b"access-control-allow-headers", asked), _AGE]
