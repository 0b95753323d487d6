"""Marked uploads: whatever part of one an engine has got, a byte that is not its own is found."""

import random

import pytest
from benchmarks.chaos.uploads import Request, Requests, foreign_bytes


def marked(seed: int) -> Request:
    return next(one for one in Requests(random.Random(seed)) if one.kind == "marked")


def form(request: Request) -> bytes:
    """Return the body as a router passes it on: without the chunks it may have come in."""
    if b"transfer-encoding" not in request.head:
        return request.body
    body, out = request.body, b""
    while size := int(body[: body.index(b"\r\n")], 16):
        at = body.index(b"\r\n") + 2
        out += body[at : at + size]
        body = body[at + size + 2 :]
    return out


@pytest.mark.parametrize("seed", range(6))
def test_a_marked_upload_is_its_own_however_much_of_it_came(seed: int) -> None:
    one = marked(seed)
    body, name = form(one), f"c{one.number}"
    start = body.index(b"RIFF")
    for end in (start + 45, start + 1000, start + 100_000, len(body)):
        assert foreign_bytes(body[:end], name) == ""
    assert foreign_bytes(body[: start + 44], name) is None
    assert foreign_bytes(body[:10], name) is None
    assert foreign_bytes(body, "a probe") is None


@pytest.mark.parametrize("size", [1, 7, 16, 70_000])
def test_a_byte_of_another_upload_is_found(size: int) -> None:
    one, other = marked(1), marked(2)
    assert one.number != other.number
    body, name = form(one), f"c{one.number}"
    sound = form(other)[form(other).index(b"RIFF") + 44 :]
    at = body.index(b"RIFF") + 44 + 30_000
    # The words end with their numbers: this is where two of them differ.
    foreign = sound[15 : 15 + size]
    assert foreign_bytes(body[: at + 15] + foreign + body[at + 15 + size :], name)
    assert foreign_bytes(body[: at + 15] + foreign, name)
    assert foreign_bytes(body, f"c{one.number + 1}")


def test_a_form_around_another_form_is_found() -> None:
    one = marked(1)
    body = form(one)
    assert foreign_bytes(body + bytes(range(100)), f"c{one.number}")


def test_an_upload_without_a_mark_says_nothing() -> None:
    clip = next(one for one in Requests(random.Random(1)) if one.kind == "clip")
    assert foreign_bytes(form(clip), f"c{clip.number}") is None
