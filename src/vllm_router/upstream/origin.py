"""Where an engine listens, read from its URL once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

#: Origins remembered: ten times the engines of a large fleet.
MAX_ORIGINS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an engine listens, read once from its URL.

    Attributes:
        address: Host, port, and whether by TLS: what connections are kept by.
        prefix: The path in front of the API's own.
        host_header: The value of Host.
    """

    address: tuple[str, int, bool]
    prefix: bytes
    host_header: bytes

    @property
    def host(self) -> str:
        """Name or address."""
        return self.address[0]

    @property
    def port(self) -> int:
        """TCP port."""
        return self.address[1]

    @property
    def is_tls(self) -> bool:
        """Whether the URL says https."""
        return self.address[2]

    @classmethod
    def of(cls, url: str) -> Origin:
        """Read an http or https URL, with or without a path in front of the API's own."""
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
    """Engines' origins by their URLs, each read once."""

    def __init__(self) -> None:
        self._known: dict[str, Origin] = {}

    def of(self, url: str) -> Origin:
        """Return where an engine listens."""
        origin = self._known.get(url)
        if origin is None:
            # Pods come and go; what is derived from their URLs must not pile up.
            if len(self._known) >= MAX_ORIGINS:
                self._known.clear()
            origin = self._known[url] = Origin.of(url)
        return origin
