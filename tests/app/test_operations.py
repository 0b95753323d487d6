"""What operators see of one process; of several it is tested in test_workers."""

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from vllm_router.app.operations import MAX_SHOWN, DrainOrder, Operations, engine_view
from vllm_router.app.siblings import Siblings
from vllm_router.discovery.source import DiscoveryStatus
from vllm_router.requests.access import KeyRing
from vllm_router.scheduling.capabilities import Capabilities
from vllm_router.scheduling.changes import Listing
from vllm_router.scheduling.engine import EngineId, EngineSpec, Transition
from vllm_router.scheduling.engine_metrics import read_engine_stats
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.work import Ticket, Urgency
from vllm_router.upstream.model_capabilities import ModelCapabilities

A = EngineId("http://a")


@pytest.fixture
def changes() -> list[Transition]:
    return []


@pytest.fixture
def operations(changes: list[Transition]) -> Operations:
    fleet = Fleet()
    fleet.apply(Listing((EngineSpec(A, A, ("m",), label="gpu0", gpu="H200"),)), 0.0)
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc()
    return Operations(
        fleet=fleet,
        aliases={},
        capabilities=ModelCapabilities(fleet, {}, lambda: 10.0),
        keys=KeyRing([]),
        admin=KeyRing([]),
        registry=registry,
        status=DiscoveryStatus("flags", 0.0, is_fixed=True),
        is_draining=lambda: False,
        now=lambda: 10.0,
        changed=changes.extend,
        started_at=0.0,
    )


def test_an_engine_is_shown_with_what_is_known_of_it(operations: Operations) -> None:
    fleet = operations.fleet
    [engine] = fleet.engines()
    before = engine_view(engine, 10.0)
    assert before["state"] == "discovered"
    assert (before["running"], before["waiting"], before["last_probe"]) == (None, None, None)
    assert (before["label"], before["gpu"], before["models"]) == ("gpu0", "H200", ["m"])
    fleet.observe_probe(A, False, 0.25, "it answered 500 to /health", False, 5.0)
    page = b"vllm:num_requests_running 3\nvllm:num_requests_waiting 2\n"
    fleet.observe_stats(A, read_engine_stats(page), 6.0)
    after = engine_view(engine, 10.0)
    assert after["state"] == "probing"
    assert after["last_probe"]["ok"] is False
    assert after["last_probe"]["seconds"] == 0.25
    assert after["last_error"] == "it answered 500 to /health"
    assert (after["running"], after["waiting"]) == (3, 2)
    assert json.loads(json.dumps(after)) == after


async def test_an_order_is_carried_out_and_told(
    operations: Operations, changes: list[Transition]
) -> None:
    [engine] = operations.fleet.engines()
    await operations.give_order(DrainOrder.DRAIN, A)
    assert engine.state.value == "draining"
    await operations.give_order(DrainOrder.RESUME, A)
    assert engine.state.value == "probing"
    assert [change.after.value for change in changes] == ["draining", "probing"]


async def test_siblings_are_answered(operations: Operations) -> None:
    assert b"things_total 1.0" in await operations.answer_sibling({"ask": "metrics"})
    [view] = json.loads(await operations.answer_sibling({"ask": "engines"}))
    assert view["engine_id"] == A
    order = {"ask": "order", "order": "drain", "engine_id": A}
    assert await operations.answer_sibling(order) == b""
    [engine] = operations.fleet.engines()
    assert engine.state.value == "draining"
    assert await operations.answer_sibling({"ask": "the time"}) == b""


async def test_alone_the_page_is_the_processs_own(operations: Operations) -> None:
    assert b"things_total 1.0" in await operations.merged_metrics()
    assert [view["engine_id"] for view in await operations.engine_views()] == [A]


async def test_what_an_engines_models_turned_out_unable_to_do_is_shown(
    operations: Operations,
) -> None:
    [view] = await operations.engine_views()
    assert (view["capabilities"], view["unreadable_containers"]) == ({}, [])
    known = operations.capabilities
    ticket, other = (Ticket("r", model, 1.0, 1, Urgency.SHORT, 0.0) for model in ("m", "other"))
    for _ in range(2):
        known.refused_container(ticket, A, "webm", 400)
        known.refused_container(ticket, A, "mp4", 500)
        known.refused_container(other, A, "flac", 400)
    known.refused_container(ticket, A, "ogg", 400)
    known.refused_language(ticket, A)
    [view] = await operations.engine_views()
    assert view["unreadable_containers"] == ["mp4", "webm"]
    assert view["capabilities"] == {
        "m": {"language": False, "unreadable_containers": ["mp4", "webm"]}
    }
    assert json.loads(json.dumps(view)) == view


async def test_of_an_engine_with_many_models_some_are_shown(operations: Operations) -> None:
    names = tuple(f"m{index}" for index in range(100))
    stated = Capabilities(language=False)
    operations.fleet.apply(Listing((EngineSpec(A, A, names, capabilities=stated),)), 0.0)
    [view] = await operations.engine_views()
    assert len(view["capabilities"]) == MAX_SHOWN
    assert view["capabilities"]["m0"] == {"language": False, "stated": ["language"]}


@pytest.mark.parametrize(
    "order",
    [
        {"ask": "order"},
        {"ask": "order", "order": "drain"},
        {"ask": "order", "order": "drain", "engine_id": []},
        {"ask": "order", "order": ["drain"], "engine_id": A},
        {"ask": "order", "order": "explode", "engine_id": A},
    ],
)
async def test_an_order_that_is_none_is_refused(
    operations: Operations, order: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"(?i)order"):
        await operations.answer_sibling(order)
    [engine] = operations.fleet.engines()
    assert engine.state.value == "discovered"


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b"7", b"[7]", b'[{"engine_id": "http://a", "in_flight": "many"}]']
)
async def test_what_a_sibling_says_of_its_engines_is_used_or_left_out(
    operations: Operations, tmp_path: Path, answer: bytes
) -> None:
    async def say(question: dict[str, Any]) -> bytes:
        return answer

    operations.siblings = Siblings(tmp_path, 0, 2)
    async with Siblings(tmp_path, 1, 2).listening(say):
        [view] = await operations.engine_views()
    assert (view["engine_id"], view["in_flight"]) == (A, 0)
