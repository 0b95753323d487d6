"""How much memory this process may use, and how much of it uploads get by default.

Reads the machine's memory and the bounds of every cgroup that this process is in, of either
version; the least counts. What cannot be read bounds nothing.
"""

import os
from pathlib import Path
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


def memory_bytes(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may use.

    Args:
        root: Where /sys and /proc are; of another root the machine's memory is not asked for.
    """
    bounds = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            bounds += _bounds(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            bounds += _bounds(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    return min(bounds)


def _bounds(mount: Path, path: str, name: str) -> list[int]:
    """Return the bounds of a group and of all that it is in.

    In a container the mount shows the container's own group at its top, whatever the path says.
    """
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    groups = [mount.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    texts = (_text(group / name).strip() for group in groups)
    return [int(text) for text in texts if text.isascii() and text.isdecimal() and int(text) > 0]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def spool_memory_mib(memory: int) -> float:
    """Return the MiB of memory that all uploads together may hold by default.

    Args:
        memory: Bytes that the process may use.
    """
    mib = memory / MIB
    return max(1.0, min(max(_LEAST_MIB, mib * _SHARE), mib * _MOST_SHARE, _MOST_MIB))
