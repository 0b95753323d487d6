"""The address of an engine, parsed from its URL once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

#: Maximum number of cached origins: ten times the engines of a large fleet.
MAX_ORIGINS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Origin:
    """The address of an engine, parsed from its URL once.

    Attributes:
        address: Host, port, and whether TLS is used; the key of the connection pool.
        prefix: Path before the API's own.
        host_header: Value of Host.
    """

    address: tuple[str, int, bool]
    prefix: bytes
    host_header: bytes

    @property
    def host(self) -> str:
        """Host name or IP address."""
        return self.address[0]

    @property
    def port(self) -> int:
        """TCP port."""
        return self.address[1]

    @property
    def is_tls(self) -> bool:
        """Whether the URL's scheme is https."""
        return self.address[2]

    @classmethod
    def of(cls, url: str) -> Origin:
        """Parse an http or https URL, with or without a path prefix."""
        parts = urlsplit(url)
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
        host = parts.hostname or ""
        name = f"[{host}]" if ":" in host else host
        default = parts.port is None
        return cls(
            address=(host, port, is_tls),
            prefix=parts.path.rstrip("/").encode(),
            host_header=(name if default else f"{name}:{port}").encode(),
        )


class Origins:
    """Origins by URL, each parsed once."""

    def __init__(self) -> None:
        self._known: dict[str, Origin] = {}

    def of(self, url: str) -> Origin:
        """Return the origin for a URL."""
        origin = self._known.get(url)
        if origin is None:
            # Pods come and go; results for their URLs must not accumulate.
            if len(self._known) >= MAX_ORIGINS:
                self._known.clear()
            origin = self._known[url] = Origin.of(url)
        return origin
