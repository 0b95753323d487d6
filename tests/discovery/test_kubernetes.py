"""The awkward histories, told by a real API over a socket."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.discovery.following import Followed, QuickTime, following
from tests.discovery.kube_api import (
    KubeApi,
    Refusal,
    endpoint,
    endpoint_slice,
    kube_api,
    kubeconfig,
    pod,
)

from vllm_router.discovery.kube_access import find_access
from vllm_router.discovery.kubernetes import KubernetesDiscovery
from vllm_router.scheduling.changes import Appeared, Listing, Withdrawn

SLICES = "endpointslices"


@pytest.fixture
async def api() -> AsyncIterator[KubeApi]:
    async with kube_api() as server:
        yield server


def discovery(api: KubeApi, directory: Path, **settings: Any) -> KubernetesDiscovery:
    access = find_access(kubeconfig(directory, api), environ={}, home=directory)
    settings.setdefault("rng", random.Random(1))
    return KubernetesDiscovery(access, **settings)


def ids(seen: Followed) -> list[str]:
    return sorted(seen.engines)


async def test_what_is_there_is_listed_and_what_comes_and_goes_is_told(
    api: KubeApi, tmp_path: Path
) -> None:
    api.add(pod("a", "10.0.0.1"))
    api.add(pod("b", "10.0.0.2"))
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: len(seen.engines) == 2)
        await seen.until(lambda: bool(api.watchers))
        api.add(pod("c", "10.0.0.3"))
        api.delete("a")
        await seen.until(lambda: ids(seen) == ["voice/b/uid-b", "voice/c/uid-c"])
    assert [type(change) for change in seen.changes] == [Listing, Appeared, Withdrawn]
    assert seen.urls == ["http://10.0.0.2:8000", "http://10.0.0.3:8000"]


async def test_no_pods_is_a_listing_too(api: KubeApi, tmp_path: Path) -> None:
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: seen.changes == [Listing(())])


async def test_only_pods_of_the_selector_in_the_namespace_are_asked_for(
    api: KubeApi, tmp_path: Path
) -> None:
    api.add(pod("a"))
    api.add(pod("web", labels={"app": "web"}))
    source = discovery(api, tmp_path, namespace="other", label_selector="app=whisper")
    async with following(source) as seen:
        await seen.until(lambda: ids(seen) == ["voice/a/uid-a"])
        await seen.until(lambda: bool(api.watchers))
        api.add(pod("web2", labels={"app": "web"}))
        api.add(pod("b"))
        await seen.until(lambda: len(seen.engines) == 2)
    assert {path for path, _, _ in api.requests} == {"/api/v1/namespaces/other/pods"}
    assert all(query["labelSelector"] == "app=whisper" for _, query, _ in api.requests)
    assert "other" in source.status.source


async def test_the_namespace_of_the_context_is_the_default(api: KubeApi, tmp_path: Path) -> None:
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: bool(seen.changes))
    assert api.requests[0][0] == "/api/v1/namespaces/voice/pods"


@pytest.mark.parametrize(
    "what",
    [
        pytest.param({"deletionTimestamp": "2026-01-01T00:00:00Z"}, id="terminating"),
        pytest.param({"conditions": [{"type": "Ready", "status": "False"}]}, id="not ready"),
        pytest.param({"readinessGates": [{"conditionType": "cloud/lb"}]}, id="a gate is shut"),
        pytest.param({"phase": "Failed", "ip": None}, id="evicted with no IP"),
        pytest.param({"ip": None}, id="lost its IP"),
    ],
)
async def test_a_pod_that_stops_being_eligible_is_withdrawn_and_comes_back(
    api: KubeApi, tmp_path: Path, what: dict[str, Any]
) -> None:
    api.add(pod("a"))
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: bool(api.watchers))
        api.modify(pod("a", **what))
        await seen.until(lambda: not seen.engines)
        api.modify(pod("a"))
        await seen.until(lambda: ids(seen) == ["voice/a/uid-a"])
    assert [type(change) for change in seen.changes] == [Listing, Withdrawn, Appeared]


async def test_a_pod_evicted_with_no_ip_is_not_listed(api: KubeApi, tmp_path: Path) -> None:
    api.add(pod("evicted", None, phase="Failed"))
    api.add(pod("a"))
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: ids(seen) == ["voice/a/uid-a"])


async def test_a_change_that_means_nothing_to_us_is_not_told(api: KubeApi, tmp_path: Path) -> None:
    api.add(pod("a"))
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: bool(api.watchers))
        api.modify(pod("a", labels={"app": "whisper", "touched": "yes"}))
        api.add(pod("b"))
        await seen.until(lambda: len(seen.engines) == 2)
    assert [type(change) for change in seen.changes] == [Listing, Appeared]


async def test_a_pod_that_changes_its_ip_appears_again_with_it(
    api: KubeApi, tmp_path: Path
) -> None:
    api.add(pod("a", "10.0.0.1"))
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: bool(api.watchers))
        api.modify(pod("a", "10.0.0.9"))
        await seen.until(lambda: seen.urls == ["http://10.0.0.9:8000"])


@pytest.mark.parametrize("is_delete_told", [True, False])
async def test_a_pod_reborn_under_the_same_name_and_ip_is_another_engine(
    api: KubeApi, tmp_path: Path, is_delete_told: bool
) -> None:
    api.add(pod("a", "10.0.0.1", uid="first"))
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: bool(api.watchers))
        if is_delete_told:
            api.delete("a")
        api.add(pod("a", "10.0.0.1", uid="second"))
        await seen.until(lambda: ids(seen) == ["voice/a/second"])
    assert [type(change) for change in seen.changes] == [Listing, Withdrawn, Appeared]


@pytest.mark.parametrize("gone_by", ["status", "event"])
async def test_a_delete_that_happened_between_two_watches_is_found_by_comparing(
    api: KubeApi, tmp_path: Path, gone_by: str
) -> None:
    api.gone_by = gone_by
    api.add(pod("a", "10.0.0.1"))
    api.add(pod("b", "10.0.0.2"))
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: bool(api.watchers))
        api.drop()
        api.delete("a")
        api.compact()
        await seen.until(lambda: ids(seen) == ["voice/b/uid-b"])
    assert [type(change) for change in seen.changes] == [Listing, Listing]


async def test_a_delete_between_two_watches_is_replayed_where_the_server_remembers(
    api: KubeApi, tmp_path: Path
) -> None:
    api.add(pod("a"))
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: bool(api.watchers))
        api.drop()
        api.delete("a")
        await seen.until(lambda: not seen.engines)
    assert [type(change) for change in seen.changes] == [Listing, Withdrawn]
    assert len(api.lists()) == 1


async def test_the_api_server_gone_for_ten_minutes_takes_no_engine_away(
    api: KubeApi, tmp_path: Path
) -> None:
    quick = QuickTime()
    api.add(pod("a", "10.0.0.1"))
    api.add(pod("b", "10.0.0.2"))
    source = discovery(api, tmp_path, clock=quick.clock, sleep=quick.sleep)
    async with following(source) as seen:
        await seen.until(lambda: bool(api.watchers))
        assert source.status.age_s(quick.clock()) < 60
        await api.stop()
        await seen.until(lambda: quick.skipped_s > 600)
        assert len(seen.engines) == 2
        assert len(seen.changes) == 1
        assert source.status.age_s(quick.clock()) > 590
        assert source.status.last_error is not None
        # Ten minutes at a ceiling of 30 s: some dozens of attempts, not thousands.
        assert len(quick.waits) < 200
        del api.objects["pods"]["a"]
        api.compact()
        await api.start()
        await seen.until(lambda: ids(seen) == ["voice/b/uid-b"])
        await seen.until(lambda: source.status.last_error is None)
        assert source.status.age_s(quick.clock()) < 60


async def test_5000_pods_at_once(api: KubeApi, tmp_path: Path) -> None:
    for number in range(5000):
        api.add(pod(f"p{number}", f"10.1.{number // 250}.{number % 250 + 1}"))
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: len(seen.engines) == 5000)
        assert len(api.lists()) == 50
        await seen.until(lambda: bool(api.watchers))
        for number in range(4999):
            api.modify(pod(f"p{number}", None))
        await seen.until(lambda: ids(seen) == ["voice/p4999/uid-p4999"])
    assert len(api.lists()) == 50


async def test_hints_on_a_pod_reach_the_engine(api: KubeApi, tmp_path: Path) -> None:
    prefix = "vllm-whisper-router/"
    hints = {
        f"{prefix}model": "openai/whisper-small, small",
        f"{prefix}port": "metrics",
        f"{prefix}weight": "2.5",
        f"{prefix}gpu": "H200",
        f"{prefix}label": "eu",
    }
    ports = [{"name": "http", "containerPort": 8000}, {"name": "metrics", "containerPort": 9000}]
    api.add(pod("a", annotations=hints, containers=[{"name": "x"}, {"name": "y", "ports": ports}]))
    async with following(discovery(api, tmp_path, port="http")) as seen:
        await seen.until(lambda: bool(seen.engines))
    spec = seen.engines["voice/a/uid-a"]
    assert spec.url == "http://10.0.0.1:9000"
    assert spec.models == ("openai/whisper-small", "small")
    assert (spec.weight, spec.gpu, spec.label) == (2.5, "H200", "eu")


async def test_a_pod_that_cannot_be_read_is_skipped_with_one_warning(
    api: KubeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {"vllm-whisper-router/port": "no such port"}
    odd = {"vllm-whisper-router/weight": "heavy"}
    api.add(pod("bad", annotations=bad))
    api.add(pod("odd", annotations=odd))
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: ids(seen) == ["voice/odd/uid-odd"])
        await seen.until(lambda: bool(api.watchers))
        for _ in range(3):
            api.modify(pod("bad", annotations=bad))
            api.modify(pod("odd", "10.0.0.3", annotations=odd))
        api.add(pod("fine", "10.0.0.2"))
        await seen.until(lambda: len(seen.engines) == 2)
        # A good pod that turns unreadable cannot be used any more.
        api.modify(pod("fine", annotations=bad))
        await seen.until(lambda: ids(seen) == ["voice/odd/uid-odd"])
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert sum("bad is skipped" in each for each in warnings) == 1
    assert sum("odd" in each and "heavy" in each for each in warnings) == 1


async def test_slices_are_merged_and_an_endpoint_in_two_is_one_engine(
    api: KubeApi, tmp_path: Path
) -> None:
    api.add(endpoint_slice("s1", endpoint("a", "10.0.0.1"), endpoint("b", "10.0.0.2")), SLICES)
    api.add(endpoint_slice("s2", endpoint("b", "10.0.0.2"), endpoint("c", "10.0.0.3")), SLICES)
    six = endpoint_slice("s6", endpoint("a", "fd00::1"), endpoint("d", "fd00::4"))
    api.add(six | {"addressType": "IPv6"}, SLICES)
    async with following(discovery(api, tmp_path, kind="endpoint-slice")) as seen:
        await seen.until(lambda: len(seen.engines) == 4)
        assert seen.urls == [
            "http://10.0.0.1:8000",
            "http://10.0.0.2:8000",
            "http://10.0.0.3:8000",
            "http://[fd00::4]:8000",
        ]
        await seen.until(lambda: bool(api.watchers))
        # b leaves one slice and stays in the other; then that slice goes.
        api.modify(endpoint_slice("s1", endpoint("a", "10.0.0.1")), SLICES)
        api.delete("s6", SLICES)
        await seen.until(lambda: len(seen.engines) == 3)
        assert "voice/b/uid-b" in seen.engines
        api.delete("s2", SLICES)
        await seen.until(lambda: ids(seen) == ["voice/a/uid-a"])
    assert api.requests[0][0] == f"/apis/discovery.k8s.io/v1/namespaces/voice/{SLICES}"


async def test_an_endpoint_that_terminates_in_any_slice_is_withdrawn(
    api: KubeApi, tmp_path: Path
) -> None:
    api.add(endpoint_slice("old", endpoint("a", "10.0.0.1", ready=True)), SLICES)
    async with following(discovery(api, tmp_path, kind="endpoint-slice")) as seen:
        await seen.until(lambda: bool(seen.engines) and bool(api.watchers))
        ending = endpoint("a", "10.0.0.1", ready=False, serving=True, terminating=True)
        api.add(endpoint_slice("new", ending), SLICES)
        await seen.until(lambda: not seen.engines)


async def test_a_kubeconfig_that_is_broken_at_first_is_waited_for(
    api: KubeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quick = QuickTime()
    path = Path(kubeconfig(tmp_path, api))
    good = path.read_text()
    path.write_text("clusters: {")
    access = find_access(str(path), environ={}, home=tmp_path)
    source = KubernetesDiscovery(access, clock=quick.clock, sleep=quick.sleep)
    api.add(pod("a"))
    async with following(source) as seen:
        await seen.until(lambda: len(quick.waits) > 3)
        assert str(path) in str(source.status.last_error)
        path.write_text(good)
        await seen.until(lambda: len(seen.engines) == 1)
        await seen.until(lambda: source.status.last_error is None)
    assert str(path) in repr(source)
    assert sum(each.levelname == "WARNING" for each in caplog.records) == 1


async def test_a_forbidden_list_says_what_a_role_must_allow(api: KubeApi, tmp_path: Path) -> None:
    quick = QuickTime()
    api.refusals = [Refusal(403, "pods is forbidden", times=5)]
    source = discovery(api, tmp_path, clock=quick.clock, sleep=quick.sleep, namespace="voice")
    errors = set()
    async with following(source) as seen:

        def is_listed() -> bool:
            errors.add(source.status.last_error)
            return bool(seen.changes)

        await seen.until(is_listed)
    said = " ".join(str(error) for error in errors)
    assert "get, list and watch on pods in the namespace voice" in said


async def test_of_more_engines_than_any_fleet_has_the_first_are_taken(
    api: KubeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def part(index: int) -> dict[str, Any]:
        ends = [endpoint(f"e{index}-{n}", f"10.{index}.{n // 250}.{n % 250}") for n in range(1000)]
        return endpoint_slice(f"s{index}", *ends)

    for index in range(11):
        api.add(part(index), SLICES)
    async with following(discovery(api, tmp_path, kind="endpoint-slice")) as seen:
        await seen.until(lambda: len(seen.engines) == 10_000)
        await seen.until(lambda: bool(api.watchers))
        api.add(part(11), SLICES)
        api.delete("s0", SLICES)
        await seen.until(lambda: len(seen.engines) == 9_000)
    assert caplog.text.count("more than 10000 engines") == 1
