"""Memory for uploads, in blocks that are given back and used again.

Bounded for the whole process, so that a storm of uploads can neither grow the heap nor fragment it.

The rule of ownership: a block has one owner, the upload that took it, until that gives it back.
Transports, threads and the event loop only have views of it, but may keep them for longer. A
transport keeps what the engine has not taken yet: after an early answer, after a cancellation, and
with uvloop even after `abort()`, which closes the socket only in the loop's next step and may send
more before that. So a block is used again only if nobody has a view of it. CPython knows: a
bytearray with views refuses to change its length. A block given back with views of it is dropped,
and freed with the last of them. No other code needs to know what the kernel has accepted.
"""

from __future__ import annotations

from typing import Final

#: One block holds a short clip: three seconds of 16 kHz WAV are 96 KB. It is also what is read from
#: the disk at a time.
BLOCK_BYTES: Final = 128 * 1024


def is_viewed(block: bytearray) -> bool:
    """Return whether a transport, a thread or the event loop has a view of a block."""
    try:
        # The block stays where it is: an allocation shrinks only when half of it is unused.
        block.append(block.pop())
    except BufferError:
        return True
    return False


class BlockPool:
    """Memory for uploads, bounded, reused.

    Args:
        capacity_bytes: What all uploads together may hold in memory.

    Attributes:
        blocks_out: Blocks taken and not given back.
        dropped_blocks: Blocks that were given back with views of them, and not used again.
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
        """Whether a further block stays within the capacity."""
        return self.blocks_out < self.capacity_blocks

    def take(self) -> bytearray:
        """Return a block; whether there is room is the caller's question, staging goes past it."""
        self.blocks_out += 1
        return self._free.pop() if self._free else bytearray(BLOCK_BYTES)

    def give(self, blocks: list[bytearray]) -> None:
        """Take blocks back, and keep those that may be used again."""
        self.blocks_out -= len(blocks)
        for block in blocks:
            if is_viewed(block):
                self.dropped_blocks += 1
            elif self.blocks_out + len(self._free) < self.capacity_blocks:
                self._free.append(block)
