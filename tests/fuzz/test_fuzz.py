"""A second of what scripts/fuzz does for as long as it is told."""

import random
from itertools import islice
from pathlib import Path

import pytest
from tests.end_to_end.leftovers import is_served, one_engine
from tests.fuzz.__main__ import fuzz_document, serving_router
from tests.fuzz.hostile import corpus, endless, shoot_all
from tests.fuzz.targets import mutated, targets


@pytest.mark.parametrize("name", targets())
def test_no_bytes_break_a_parsers_promise(name: str) -> None:
    target, rng = targets()[name], random.Random(name)
    for seed in target.seeds:
        target.run(seed)
        for end in range(0, len(seed), 1 + len(seed) // 50):
            target.run(seed[:end])
        for _ in range(150):
            target.run(mutated(seed, rng))
    for size in range(60):
        target.run(rng.randbytes(size))


async def test_hostile_bytes_are_answered_or_cut_and_never_by_a_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with one_engine(client_head_timeout_s=5) as (running_router, _):
        inputs = islice(endless(1), len(list(corpus())) + 250)
        tally = await shoot_all(running_router.port, inputs, 60, 10**6)
        assert not tally.bad
        assert not tally.hung
        assert tally.tried > 400
        assert await is_served(running_router)
    assert not [record for record in caplog.records if record.exc_info]


async def test_the_router_keeps_to_its_own_document(tmp_path: Path) -> None:
    async with serving_router(tmp_path / "log") as server:
        count, failures = await fuzz_document(server, 3, 0)
    assert not failures
    assert count > 50
