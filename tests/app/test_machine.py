import os
from pathlib import Path

import pytest

from vllm_router.app.machine import memory_bytes, usable_cpus
from vllm_router.spool.memory_budget import MIB


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


def test_the_least_cpu_quota_of_all_groups_counts(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/a/b\n")
    put(tmp_path, "sys/fs/cgroup/a/cpu.max", "50000 100000\n")
    put(tmp_path, "sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
    assert usable_cpus(tmp_path) == 0.5


def test_the_cpu_quota_of_the_first_version_is_read_too(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/x\n")
    for group, quota in (("", "-1"), ("x/", "25000")):
        put(tmp_path, f"sys/fs/cgroup/cpu/{group}cpu.cfs_quota_us", quota)
        put(tmp_path, f"sys/fs/cgroup/cpu/{group}cpu.cfs_period_us", "100000")
    assert usable_cpus(tmp_path) == 0.25


@pytest.mark.parametrize("text", ["", "max", "max 100000", "nonsense", "5", "0 100000", "5 0"])
def test_without_a_quota_the_process_may_use_the_cpus_it_is_bound_to(
    tmp_path: Path, text: str
) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/\n")
    put(tmp_path, "sys/fs/cgroup/cpu.max", text)
    assert usable_cpus(tmp_path) == len(os.sched_getaffinity(0))
