from pathlib import Path

import pytest

from vllm_router.spool.memory_budget import MIB, memory_bytes, spool_memory_mib


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_least_bound_of_all_groups_counts(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/a/b\n")
    put(tmp_path, "sys/fs/cgroup/a/memory.max", str(300 * MIB))
    put(tmp_path, "sys/fs/cgroup/a/b/memory.max", "max\n")
    assert memory_bytes(tmp_path) == 300 * MIB


def test_a_container_sees_its_own_bound_at_the_top(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/kubepods/../../elsewhere\n")
    put(tmp_path, "sys/fs/cgroup/memory.max", f"{200 * MIB}\n")
    assert memory_bytes(tmp_path) == 200 * MIB


def test_the_first_version_of_cgroups_is_read_too(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/x\n")
    put(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    put(tmp_path, "sys/fs/cgroup/memory/x/memory.limit_in_bytes", f"{100 * MIB}\n")
    assert memory_bytes(tmp_path) == 100 * MIB


@pytest.mark.parametrize("text", ["", "nonsense", "0::", "max\n", "-5", "\u0663"])
def test_what_cannot_be_read_bounds_nothing(tmp_path: Path, text: str) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/\n" if text else text)
    put(tmp_path, "sys/fs/cgroup/memory.max", text)
    assert memory_bytes(tmp_path) == memory_bytes(tmp_path / "nowhere") > 0


@pytest.mark.parametrize(
    ("gib", "mib"), [(0.25, 32), (0.5, 64), (2, 64), (24, 768), (32, 1024), (512, 1024)]
)
def test_uploads_get_a_part_of_the_memory_between_bounds(gib: float, mib: float) -> None:
    assert spool_memory_mib(int(gib * 1024 * MIB)) == pytest.approx(mib)
