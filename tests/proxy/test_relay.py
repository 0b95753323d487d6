from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.inbound.exchange import Exchange
from vllm_router.inbound.head import read_head
from vllm_router.outbound.call import Deadlines
from vllm_router.outbound.http1 import HttpClient
from vllm_router.outbound.upload import Spool
from vllm_router.proxy.relay import HOP_BY_HOP, WITHHELD, Relay, UploadBody, engine_headers
from vllm_router.wire.multipart import Edit


def exchange(*lines: bytes) -> Exchange:
    head = b"\r\n".join([b"POST /v1/audio/transcriptions HTTP/1.1", b"Host: r", *lines, b"", b""])
    return cast(Exchange, SimpleNamespace(head=read_head(head)))


def test_end_to_end_headers_pass_in_their_order() -> None:
    client = exchange(b"X-B: 1", b"Content-Type: multipart/form-data; boundary=x", b"X-A: 2")
    assert engine_headers(client, "id", None) == [
        (b"x-b", b"1"),
        (b"content-type", b"multipart/form-data; boundary=x"),
        (b"x-a", b"2"),
        (b"x-request-id", b"id"),
    ]


#: Without those that decide where a request ends; no head has two of them.
FRAMING = {b"content-length", b"host", b"transfer-encoding"}


@pytest.mark.parametrize("name", sorted(WITHHELD - FRAMING))
def test_what_could_matter_at_an_engine_stays_here(name: bytes) -> None:
    sent = engine_headers(exchange(name + b": spoof"), "id", None)
    assert (name, b"spoof") not in sent


def test_what_connection_names_is_for_this_hop_only() -> None:
    client = exchange(b"Connection: close, X-Mine ,X-Other", b"X-Mine: 1", b"X-Other: 2", b"X: 3")
    assert [name for name, _ in engine_headers(client, "id", None)] == [b"x", b"x-request-id"]


def test_the_engines_key_takes_the_place_of_the_clients() -> None:
    sent = dict(engine_headers(exchange(b"Authorization: Bearer mine"), "id", "theirs"))
    assert sent[b"authorization"] == b"Bearer theirs"


def test_a_body_of_ours_has_its_own_content_type() -> None:
    sent = engine_headers(exchange(b"Content-Type: a/b"), "id", None, b"c/d")
    assert [value for name, value in sent if name == b"content-type"] == [b"c/d"]


def test_hop_by_hop_headers_are_all_withheld() -> None:
    assert HOP_BY_HOP <= WITHHELD


@given(st.floats(0, 100_000))
def test_patience_is_never_below_its_floor_and_grows_with_the_audio(audio_s: float) -> None:
    relay = Relay(cast(HttpClient, None), Deadlines(1.0, 2.0, 120.0), None)
    deadlines = relay.deadlines(audio_s)
    assert (deadlines.connect_s, deadlines.write_s) == (1.0, 2.0)
    assert deadlines.read_s == max(120.0, 2 * audio_s)


@pytest.fixture(scope="module")
def spool() -> Any:
    spool = Spool(None, 2**24)
    yield spool
    spool.close()


EDITS = st.lists(st.tuples(st.integers(0, 300_000), st.binary(max_size=20)), max_size=5)


@given(size=st.integers(0, 300_000), edits=EDITS)
async def test_an_edited_upload_is_as_long_as_it_says(
    spool: Spool, size: int, edits: list[tuple[int, bytes]]
) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    upload = spool.upload()
    list(upload.append(data))
    places = sorted({min(at, size) for at, _ in edits})
    changes = [Edit(at, at, text) for at, (_, text) in zip(places, edits, strict=False)]
    expected = data
    for change in reversed(changes):
        expected = expected[: change.start] + change.data + expected[change.start :]
    body = UploadBody.edited(upload, changes)
    assert body.size_bytes == len(expected)
    assert b"".join(body.in_memory() or ()) == expected
    pieces = [b"".join(piece) async for piece in body.pieces()]
    assert b"".join(pieces) == expected
    upload.close()
