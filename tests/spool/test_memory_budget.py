import pytest

from vllm_router.spool.memory_budget import MIB, spool_memory_mib


@pytest.mark.parametrize(
    ("gib", "mib"), [(0.25, 32), (0.5, 64), (2, 64), (24, 768), (32, 1024), (512, 1024)]
)
def test_uploads_get_a_part_of_the_memory_between_bounds(gib: float, mib: float) -> None:
    assert spool_memory_mib(int(gib * 1024 * MIB)) == pytest.approx(mib)
