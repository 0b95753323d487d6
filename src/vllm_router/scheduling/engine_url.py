"""Normalization of engine URLs.

Promises: two spellings of an address (case of the host, default port, trailing slash or ``/v1``)
give the same text, so the text can identify an engine. An address that cannot be dialed is refused
with one plain sentence. Names are not resolved: ``localhost`` and ``127.0.0.1`` remain distinct.
"""

import re
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

# Longest host name in text form (RFC 1035, 3.1). Labels may contain "_", as in docker compose.
_HOST_MAX: Final = 253
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def engine_url(text: str) -> str:
    """Return the normalized address: ``http://host[:port][/prefix]``, without a trailing slash.

    Args:
        text: Text that a person wrote. A trailing ``/v1`` is dropped, because OpenAI clients' base
            URLs end in it and the engine's paths already begin with it.

    Raises:
        ValueError: One sentence that quotes the text and says what is wrong with it.
    """
    url = text.strip()
    shown = f'"{url}"'
    if not url:
        raise ValueError("an engine's URL is empty")
    if any(char <= " " or char == "\x7f" for char in url):
        raise ValueError(f"{shown} contains a space or a control character")
    scheme, separator, _ = url.partition("://")
    if not separator or scheme.lower() not in _DEFAULT_PORTS:
        raise ValueError(f"{shown} does not begin with http:// or https://")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{shown} is not a URL: {_lowered(error)}") from None
    if "@" in parts.netloc:
        # Not quoted: it may contain a password, and startup errors end up in logs.
        raise ValueError(
            "an engine's URL contains a user name or password; give a key with its own flag"
        )
    if not host:
        raise ValueError(f"{shown} names no host")
    if parts.netloc.endswith(":") or port == 0:
        raise ValueError(f"{shown} has no usable port; ports go from 1 to 65535")
    if "?" in url or "#" in url:
        raise ValueError(f"{shown} may not have a query or a fragment")
    if not parts.path.isascii():
        raise ValueError(f"{shown} has a path that is not plain ASCII; percent-encode it")
    authority = _host(host, shown)
    if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
        authority += f":{port}"
    return f"{parts.scheme}://{authority}{_prefix(parts.path)}"


def address_url(address: str, port: int) -> str:
    """Return ``http://address:port`` for an IPv4 address, an IPv6 address or a host name.

    Raises:
        ValueError: Neither an address nor a host name, or no usable port.
    """
    if not 0 < port < 65536:
        raise ValueError(f"port {port} is not between 1 and 65535")
    # Machine-made text of unbounded length.
    shown = ascii(address[:_HOST_MAX])
    return f"http://{_host(address.rstrip('.').lower(), shown)}:{port}"


def _host(host: str, shown: str) -> str:
    try:
        parsed = ip_address(host)
    except ValueError:
        labels = host.removesuffix(".").split(".")
        is_name = len(host) <= _HOST_MAX and all(_LABEL.fullmatch(label) for label in labels)
        # "10.0.0.300" would pass as a name, but no top-level domain is a number (RFC 3696, 2).
        if not is_name or labels[-1].isdigit():
            raise ValueError(f"{shown} has no valid host name or IP address") from None
        return host
    if isinstance(parsed, IPv6Address):
        if parsed.scope_id is not None:
            raise ValueError(
                f"{shown} has a zone in its IPv6 address, which is meaningless on other hosts"
            )
        return f"[{parsed}]"
    return str(parsed)


def _prefix(path: str) -> str:
    trimmed = path.rstrip("/")
    while trimmed.endswith("/v1"):
        trimmed = trimmed.removesuffix("/v1").rstrip("/")
    return trimmed


def _lowered(error: ValueError) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]
