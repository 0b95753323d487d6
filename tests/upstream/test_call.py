"""Bodies that are in memory, and failures that say what was known."""

import pytest

from vllm_router.upstream.call import (
    BadAnswer,
    BytesBody,
    CallFailed,
    CallTimedOut,
    ConnectionBroke,
    NotConnected,
)


@pytest.mark.parametrize("buffers", [(), (b"",), (b"a",), (b"ab", b"", b"c")])
async def test_a_body_is_its_buffers_in_order_and_any_number_of_times(
    buffers: tuple[bytes, ...],
) -> None:
    body = BytesBody(*buffers)
    whole = b"".join(buffers)
    for _ in range(2):
        assert b"".join(body.in_memory()) == whole
        assert b"".join([part async for piece in body.pieces() for part in piece]) == whole
    assert body.size_bytes == len(whole)
    assert all(body.in_memory()), "an empty buffer costs a system call"


def test_whoever_waits_for_a_call_need_know_only_one_failure() -> None:
    kinds = (NotConnected, ConnectionBroke, BadAnswer, CallTimedOut)
    assert all(issubclass(kind, CallFailed) for kind in kinds)
