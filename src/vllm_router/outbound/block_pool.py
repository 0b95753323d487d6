"""Memory for uploads, in blocks that are given back and used again.

Bounded for the whole process, so that a storm of uploads can neither grow the heap nor fragment it.
"""

from __future__ import annotations

from typing import Final

#: One block holds a short clip: three seconds of 16 kHz WAV are 96 KB. It is also what is read from
#: the disk at a time.
BLOCK_BYTES: Final = 128 * 1024


class BlockPool:
    """Memory for uploads, bounded, reused.

    Args:
        capacity_bytes: What all uploads together may hold in memory.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_blocks = max(1, capacity_bytes // BLOCK_BYTES)
        self.blocks_out = 0
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
        """Take blocks back."""
        self.blocks_out -= len(blocks)
        room = self.capacity_blocks - self.blocks_out - len(self._free)
        if room > 0:
            self._free += blocks[:room]

    def lose(self) -> None:
        """Count a block as given back that cannot be used again."""
        self.blocks_out -= 1
