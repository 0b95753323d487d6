"""A bounded pool of reusable memory blocks for uploads.

The bound holds for the whole process, so that many simultaneous uploads can neither grow the heap
nor fragment it.

Ownership: each block has one owner, the upload that took it, until the upload returns it.
Transports, threads and the event loop only have views of it, but may keep them for longer. A
transport keeps data that the engine has not received: after an early response, after a
cancellation, and with uvloop even after `abort()`, which closes the socket only in the loop's next
step and may send more before. So a block is reused only if no view of it exists. CPython enforces
this: a bytearray with views refuses to change its length. A block that is returned while views of
it exist is dropped, and freed with the last view. No other code needs to know what the kernel has
accepted.
"""

from __future__ import annotations

from typing import Final

#: One block holds a short clip: three seconds of 16 kHz WAV are 96 KB. It is also the unit of disk
#: reads.
BLOCK_BYTES: Final = 128 * 1024


def is_viewed(block: bytearray) -> bool:
    """Return whether a transport, a thread or the event loop has a view of a block."""
    try:
        # This does not reallocate: an allocation shrinks only when half of it is unused.
        block.append(block.pop())
    except BufferError:
        return True
    return False


class BlockPool:
    """A bounded pool of reusable blocks.

    Args:
        capacity_bytes: Memory that all uploads together may hold.

    Attributes:
        blocks_out: Blocks that were taken and not returned.
        dropped_blocks: Blocks that were returned while views of them existed, and not reused.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_blocks = max(1, capacity_bytes // BLOCK_BYTES)
        self.blocks_out = 0
        self.dropped_blocks = 0
        self._free: list[bytearray] = []

    @property
    def bytes_out(self) -> int:
        """Bytes of memory that uploads hold now."""
        return self.blocks_out * BLOCK_BYTES

    @property
    def has_room(self) -> bool:
        """Whether another block stays within the capacity."""
        return self.blocks_out < self.capacity_blocks

    def take(self) -> bytearray:
        """Return a block. The caller checks for room; staging may exceed the capacity."""
        self.blocks_out += 1
        return self._free.pop() if self._free else bytearray(BLOCK_BYTES)

    def give(self, blocks: list[bytearray]) -> None:
        """Take blocks back and keep the reusable ones."""
        self.blocks_out -= len(blocks)
        for block in blocks:
            if is_viewed(block):
                self.dropped_blocks += 1
            elif self.blocks_out + len(self._free) < self.capacity_blocks:
                self._free.append(block)
