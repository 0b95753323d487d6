"""Which headers pass, and which stay on their side."""

from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.requests.headers import (
    HOP_BY_HOP,
    REPLACED,
    WITHHELD,
    client_headers,
    engine_headers,
)
from vllm_router.server.exchange import Exchange
from vllm_router.server.head import read_head


def exchange(*lines: bytes) -> Exchange:
    head = b"\r\n".join([b"POST /v1/audio/transcriptions HTTP/1.1", b"Host: r", *lines, b"", b""])
    return cast(Exchange, SimpleNamespace(head=read_head(head)))


def test_end_to_end_headers_pass_in_their_order() -> None:
    client = exchange(b"X-B: 1", b"Content-Type: multipart/form-data; boundary=x", b"X-A: 2")
    assert engine_headers(client, None) == [
        (b"x-b", b"1"),
        (b"content-type", b"multipart/form-data; boundary=x"),
        (b"x-a", b"2"),
    ]


#: Without those that decide where a request ends; no head has two of them.
FRAMING = {b"content-length", b"host", b"transfer-encoding"}


@pytest.mark.parametrize("name", sorted(WITHHELD - FRAMING))
def test_what_could_matter_at_an_engine_stays_here(name: bytes) -> None:
    sent = engine_headers(exchange(name + b": spoof"), None)
    assert (name, b"spoof") not in sent


#: Whatever its lines, their order, case and blanks, Connection names X-Mine and X-Other.
NOMINATIONS = [
    [b"Connection: close, X-Mine ,X-Other"],
    [b"Connection: keep-alive", b"Connection: X-Mine", b"connection: X-OTHER"],
    [b"Connection: x-mine,,\t x-other ,", b"Connection: close"],
    [b"Connection:", b"CONNECTION: x-other", b"Connection: Keep-Alive ,X-mine"],
]


@pytest.mark.parametrize("lines", NOMINATIONS)
def test_what_connection_names_is_for_this_hop_only(lines: list[bytes]) -> None:
    named = [b"X-Mine: 1", b"X-Other: 2", b"X: 3"]
    for client in (exchange(*lines, *named), exchange(*named, *lines)):
        assert [name for name, _ in engine_headers(client, None)] == [b"x"]
        passed = client_headers(client.head.headers, "e")
        assert [name for name, _ in passed] == [b"host", b"x", b"x-engine-id"]


def test_no_connection_header_takes_away_what_a_body_is_read_by() -> None:
    client = exchange(b"Connection: content-type, x-request-id", b"Content-Type: a/b")
    names = [name for name, _ in engine_headers(client, None)]
    assert names == [b"content-type"]
    assert (b"content-type", b"a/b") in client_headers(client.head.headers, "e")


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"connection", b"a", b"b", b"c", b"te"]),
            st.lists(st.sampled_from([b"a", b"B", b"c", b"close", b"keep-alive"]), max_size=3),
        ),
        max_size=8,
    )
)
def test_nothing_that_any_connection_line_names_passes(
    lines: list[tuple[bytes, list[bytes]]],
) -> None:
    headers = [(name, b" , ".join(values)) for name, values in lines]
    nominated = {v.lower() for name, values in lines if name == b"connection" for v in values}
    passed = client_headers(headers, "e")
    kept = [h for h in headers if h[0] not in nominated | HOP_BY_HOP]
    assert passed == [*kept, (b"x-engine-id", b"e")]


def test_the_engines_key_takes_the_place_of_the_clients() -> None:
    sent = dict(engine_headers(exchange(b"Authorization: Bearer mine"), "theirs"))
    assert sent[b"authorization"] == b"Bearer theirs"


def test_a_body_of_ours_has_its_own_content_type() -> None:
    sent = engine_headers(exchange(b"Content-Type: a/b"), None, b"c/d")
    assert [value for name, value in sent if name == b"content-type"] == [b"c/d"]


def test_hop_by_hop_headers_are_all_withheld() -> None:
    assert HOP_BY_HOP <= WITHHELD
    assert HOP_BY_HOP <= REPLACED


@pytest.mark.parametrize("name", sorted(REPLACED))
def test_what_could_mislead_a_client_stays_here(name: bytes) -> None:
    passed = client_headers([(name, b"spoof"), (b"retry-after", b"1")], "e")
    assert passed == [(b"retry-after", b"1"), (b"x-engine-id", b"e")]
