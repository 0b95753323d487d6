"""Memory for uploads: bounded, and used again."""

import ctypes
import gc

from hypothesis import given
from hypothesis import strategies as st

from vllm_router.spool.block_pool import BLOCK_BYTES, BlockPool, is_viewed


def test_the_pool_keeps_no_more_than_its_capacity() -> None:
    pool = BlockPool(2 * BLOCK_BYTES)
    blocks = [pool.take() for _ in range(5)]
    assert not pool.has_room
    pool.give(blocks)
    assert pool.blocks_out == 0
    assert len(pool._free) == 2
    assert pool.take() in blocks


@given(st.integers(0, 8 * BLOCK_BYTES), st.lists(st.integers(-6, 6), max_size=30))
def test_it_never_holds_more_than_its_capacity_and_what_is_out(
    capacity_bytes: int, moves: list[int]
) -> None:
    pool = BlockPool(capacity_bytes)
    out: list[bytearray] = []
    for move in moves:
        if move > 0:
            out += [pool.take() for _ in range(move)]
        elif move < 0:
            pool.give([out.pop() for _ in range(min(-move, len(out)))])
        assert len({id(block) for block in (*out, *pool._free)}) == len(out) + len(pool._free)
        assert pool.bytes_out == len(out) * BLOCK_BYTES
        assert pool.has_room == (len(out) < max(1, capacity_bytes // BLOCK_BYTES))
        assert len(out) + len(pool._free) <= max(len(out), pool.capacity_blocks)
    pool.give(out)
    assert pool.bytes_out == 0


def test_a_block_is_not_used_again_while_somebody_has_a_view_of_it() -> None:
    pool = BlockPool(4 * BLOCK_BYTES)
    viewed, free = pool.take(), pool.take()
    part = memoryview(memoryview(viewed)[100:200])[5:]
    assert is_viewed(viewed)
    assert not is_viewed(free)
    pool.give([viewed, free])
    assert (pool.blocks_out, pool.dropped_blocks) == (0, 1)
    taken = [pool.take() for _ in range(4)]
    assert any(block is free for block in taken)
    assert all(block is not viewed for block in taken)
    part.release()
    assert not is_viewed(viewed)


def test_asking_changes_nothing() -> None:
    block = bytearray(range(256)) * (BLOCK_BYTES // 256)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    gc.collect()
    before = bytes(block)
    assert not is_viewed(block)
    assert block == before
    assert ctypes.addressof(ctypes.c_char.from_buffer(block)) == address
