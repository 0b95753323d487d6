"""How much memory and CPU this process may use.

Reads the machine's figures and the limits of every cgroup of the process, version 1 or 2; the
lowest wins. Limits that cannot be read are ignored.
"""

import os
from collections.abc import Iterator
from pathlib import Path


def memory_bytes(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may use.

    Args:
        root: Directory that contains sys and proc; the machine's memory is always read.
    """
    bounds = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for controllers, path in _cgroups(root):
        if not controllers:
            bounds += _bounds(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers:
            bounds += _bounds(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    return min(bounds)


def usable_cpus(root: Path = Path("/")) -> float:
    """Return the number of CPUs that this process may use, possibly a fraction.

    Args:
        root: Directory that contains sys and proc.
    """
    bounds = [float(len(os.sched_getaffinity(0)))]
    for controllers, path in _cgroups(root):
        if not controllers:
            # Microseconds of CPU time, and the period in which they may be used.
            for text in _texts(root / "sys/fs/cgroup", path, "cpu.max"):
                quota, _, period = text.partition(" ")
                if _is_count(quota) and _is_count(period):
                    bounds.append(int(quota) / int(period))
        elif "cpu" in controllers:
            mount = root / "sys/fs/cgroup/cpu"
            quotas = _texts(mount, path, "cpu.cfs_quota_us")
            periods = _texts(mount, path, "cpu.cfs_period_us")
            pairs = zip(quotas, periods, strict=True)
            bounds += [int(q) / int(p) for q, p in pairs if _is_count(q) and _is_count(p)]
    return min(bounds)


def _cgroups(root: Path) -> Iterator[tuple[list[str], str]]:
    """Yield the controllers and the path of each cgroup of the process; version 2 names none."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        yield controllers.split(",") if controllers else [], path


def _bounds(mount: Path, path: str, name: str) -> list[int]:
    return [int(text) for text in _texts(mount, path, name) if _is_count(text)]


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) > 0


def _texts(mount: Path, path: str, name: str) -> list[str]:
    """Return a file's content in a cgroup and in every cgroup above it.

    In a container, the mount shows the container's own cgroup at its top, whatever the path is.
    """
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    groups = [mount.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    return [_text(group / name).strip() for group in groups]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
