"""Which pages may read answers; over sockets and in a browser it is tested end to end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.server.cors import Cors
from vllm_router.server.head import read_head

APP = b"https://app.example"


def told(cors: Cors, origin: bytes | None) -> dict[bytes, bytes]:
    headers = cors.headers(origin)
    assert len({name for name, _ in headers}) == len(headers)
    return dict(headers)


def preflight(cors: Cors, asked: bytes | None) -> bytes:
    lines = [] if asked is None else [b"Access-Control-Request-Headers: " + asked]
    raw = b"\r\n".join([b"OPTIONS /x HTTP/1.1", b"Host: r", *lines, b"", b""])
    return dict(cors.preflight_headers(read_head(raw)))[b"access-control-allow-headers"]


def test_every_origin_may_read_by_default_and_only_pages_are_told() -> None:
    cors = Cors(["*"])
    assert told(cors, None) == {}
    headers = told(cors, APP)
    assert headers[b"access-control-allow-origin"] == b"*"
    exposed = headers[b"access-control-expose-headers"].split(b", ")
    assert {b"X-Request-Id", b"X-Engine-Id", b"Retry-After"} <= set(exposed)
    # Keys travel in a header; with cookies, any page could use those of its visitor.
    assert b"access-control-allow-credentials" not in headers
    assert cors.early_headers == cors.headers(APP)


def test_a_listed_origin_is_named_and_caches_are_told_that_it_matters() -> None:
    cors = Cors([APP.decode(), "http://localhost:3000"])
    assert told(cors, APP)[b"access-control-allow-origin"] == APP
    for origin in (None, b"https://other.example", APP + b".evil", b"null", b"*", b""):
        assert told(cors, origin) == {b"vary": b"Origin"}
    assert told(cors, APP)[b"vary"] == b"Origin"
    assert cors.early_headers == []
    assert cors.allows(APP)
    assert not cors.allows(b"*")


def test_with_no_origin_at_all_it_is_off() -> None:
    cors = Cors([])
    assert not cors.is_on
    for origin in (None, APP, b"*", b""):
        assert told(cors, origin) == {}
        assert not cors.allows(origin or b"")


@pytest.mark.parametrize(
    ("lines", "claim"),
    [
        ([b"Origin: a", b"Access-Control-Request-Method: POST"], True),
        ([b"Origin: a"], False),
        ([b"Access-Control-Request-Method: POST"], False),
    ],
)
def test_a_preflight_is_told_from_other_options(lines: list[bytes], claim: bool) -> None:
    for method in (b"OPTIONS", b"POST"):
        head = read_head(b"\r\n".join([method + b" /x HTTP/1.1", b"Host: r", *lines, b"", b""]))
        assert Cors(["*"]).is_preflight(head) == (claim and method == b"OPTIONS")
        assert not Cors([]).is_preflight(head)


@pytest.mark.parametrize("asked", [b"authorization", b"authorization,x-stainless-os , x-my-own"])
def test_the_headers_asked_for_are_allowed(asked: bytes) -> None:
    assert preflight(Cors(["*"]), asked) == asked


@pytest.mark.parametrize("asked", [None, b"", b"a b", b"a;b", b",", b"a" * 2000, b"\xff"])
def test_the_usual_headers_are_allowed_where_none_or_nonsense_is_asked_for(
    asked: bytes | None,
) -> None:
    allowed = preflight(Cors(["*"]), asked).lower().split(b", ")
    needed = {b"authorization", b"content-type", b"x-request-id", b"x-stream-format"}
    assert needed <= set(allowed)
    assert b"x-stainless-retry-count" in allowed


@given(st.binary(max_size=60).filter(lambda value: not set(value) & set(b"\r\n\0")))
def test_nothing_but_names_is_ever_given_back(asked: bytes) -> None:
    head = read_head(b"OPTIONS /x HTTP/1.1\r\nHost: r\r\n\r\n")
    head.fields = {b"access-control-request-headers": asked}
    allowed = dict(Cors(["*"]).preflight_headers(head))[b"access-control-allow-headers"]
    assert allowed == asked or allowed.startswith(b"Authorization, ")
    assert not set(allowed) & set(b'()<>@:;\\"/[]?={}')
