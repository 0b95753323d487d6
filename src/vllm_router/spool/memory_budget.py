"""How much of its memory a process gives to uploads by default."""

from typing import Final

MIB: Final = 2**20
#: Uploads get this part of the memory: enough for what a few GPUs have in flight, and little beside
#: what the rest of a machine needs.
_SHARE: Final = 1 / 32
#: Of very little memory the router itself needs most.
_MOST_SHARE: Final = 1 / 8
_LEAST_MIB: Final = 64.0
#: A thousand uploads of 30 s. What is beyond goes to disk.
_MOST_MIB: Final = 1024.0


def spool_memory_mib(memory: int) -> float:
    """Return the MiB of memory that all uploads together may hold by default.

    Args:
        memory: Bytes that the process may use.
    """
    mib = memory / MIB
    return max(1.0, min(max(_LEAST_MIB, mib * _SHARE), mib * _MOST_SHARE, _MOST_MIB))
