"""Engines' addresses, read once."""

import pytest

from vllm_router.upstream.origin import MAX_ORIGINS, Origin, Origins


@pytest.mark.parametrize(
    ("url", "host", "port", "prefix", "header"),
    [
        ("http://10.0.0.1:8000", "10.0.0.1", 8000, b"", b"10.0.0.1:8000"),
        ("http://engine", "engine", 80, b"", b"engine"),
        ("https://engine/a/b/", "engine", 443, b"/a/b", b"engine"),
        ("http://[::1]:8000/x", "::1", 8000, b"/x", b"[::1]:8000"),
    ],
)
def test_an_origin_is_read(url: str, host: str, port: int, prefix: bytes, header: bytes) -> None:
    origin = Origin.of(url)
    assert (origin.host, origin.port, origin.prefix, origin.host_header) == (
        host,
        port,
        prefix,
        header,
    )
    assert origin.is_tls == url.startswith("https")


def test_origins_are_read_once_and_do_not_pile_up() -> None:
    origins = Origins()
    first = origins.of("http://a:1")
    assert origins.of("http://a:1") is first
    for i in range(MAX_ORIGINS):
        origins.of(f"http://b{i}:1")
    assert origins.of("http://a:1") == first
    assert len(origins._known) <= MAX_ORIGINS
