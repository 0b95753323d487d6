"""The default share of a process's memory for uploads."""

from typing import Final

MIB: Final = 2**20
#: The uploads' share of memory: enough for the requests in flight of a few GPUs, and little
#: compared with the needs of the rest of the machine.
_SHARE: Final = 1 / 32
#: If there is very little memory, the router itself needs most of it.
_MOST_SHARE: Final = 1 / 8
_LEAST_MIB: Final = 64.0
#: A thousand uploads of 30 s. The rest goes to disk.
_MOST_MIB: Final = 1024.0


def spool_memory_mib(memory: int) -> float:
    """Return the MiB of memory that all uploads together may hold by default.

    Args:
        memory: Bytes that the process may use.
    """
    mib = memory / MIB
    return max(1.0, min(max(_LEAST_MIB, mib * _SHARE), mib * _MOST_SHARE, _MOST_MIB))
