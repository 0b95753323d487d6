from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.requests.relay import CallIds, Relay, UploadBody
from vllm_router.spool.multipart import Edit
from vllm_router.spool.upload import Spool
from vllm_router.upstream.call import Deadlines
from vllm_router.upstream.http_client import HttpClient


@given(st.floats(0, 100_000))
def test_patience_is_never_below_its_floor_and_grows_with_the_audio(audio_s: float) -> None:
    relay = Relay(cast(HttpClient, None), Deadlines(1.0, 2.0, 120.0), None)
    deadlines = relay.deadlines(audio_s)
    assert (deadlines.connect_s, deadlines.write_s) == (1.0, 2.0)
    assert deadlines.read_s == max(120.0, 2 * audio_s)


@given(st.lists(st.text("ab-0123456789", min_size=1, max_size=40), min_size=1, max_size=50))
def test_no_two_calls_have_one_id_whatever_clients_choose(chosen: list[str]) -> None:
    ids = CallIds()
    made: list[bytes] = []
    for request_id in chosen:
        made += [ids.next(request_id), ids.next(request_id)]
        # A client that has learned an ID, and asks for it.
        made.append(ids.next(made[-1].decode()))
        assert made[-2].startswith(request_id.encode() + b"-")
    assert len(set(made)) == len(made)


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
