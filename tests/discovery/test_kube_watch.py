"""The protocol of list and watch, seen from the server's side."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.discovery.following import QuickTime, following, until
from tests.discovery.kube_api import KubeApi, Refusal, kube_api, kubeconfig, pod

from vllm_router.discovery.kube_access import find_access
from vllm_router.discovery.kubernetes import KubernetesDiscovery


class Highest(random.Random):
    """Chance that always draws the upper end, so that waits show their ceilings."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.fixture
async def api() -> AsyncIterator[KubeApi]:
    async with kube_api() as server:
        server.add(pod("a", "10.0.0.1"))
        yield server


def discovery(api: KubeApi, directory: Path, **settings: Any) -> KubernetesDiscovery:
    access = find_access(kubeconfig(directory, api), environ={}, home=directory)
    return KubernetesDiscovery(access, **settings)


def quick_discovery(
    api: KubeApi, directory: Path, **settings: Any
) -> tuple[KubernetesDiscovery, QuickTime]:
    quick = QuickTime()
    source = discovery(
        api, directory, clock=quick.clock, sleep=quick.sleep, rng=Highest(), **settings
    )
    return source, quick


async def test_the_list_is_consistent_and_the_watch_goes_on_from_its_version(
    api: KubeApi, tmp_path: Path
) -> None:
    async with following(discovery(api, tmp_path, watch_timeout_s=30)):
        await until(lambda: bool(api.watchers))
    assert api.lists() == [{"limit": "100"}]
    (watch,) = api.watches()
    assert watch["resourceVersion"] == "101"
    assert watch["allowWatchBookmarks"] == "true"
    # The server is to end before we lose patience.
    assert 1 <= int(watch["timeoutSeconds"]) < 30


async def test_a_watch_goes_on_from_the_last_bookmark(api: KubeApi, tmp_path: Path) -> None:
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: bool(api.watchers))
        api.version = 500
        api.bookmark()
        api.end_watches()
        await seen.until(lambda: len(api.watches()) >= 2)
    assert [query["resourceVersion"] for query in api.watches()] == ["101", "500"]
    assert len(api.lists()) == 1


async def test_a_watch_goes_on_from_the_last_event_after_a_reset(
    api: KubeApi, tmp_path: Path
) -> None:
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: bool(api.watchers))
        api.add(pod("b"))
        await seen.until(lambda: len(seen.engines) == 2)
        api.drop()
        await seen.until(lambda: len(api.watches()) >= 2)
    assert api.watches()[1]["resourceVersion"] == "102"
    assert len(api.lists()) == 1


async def test_a_watch_that_hangs_silently_is_noticed_and_nothing_is_lost(
    api: KubeApi, tmp_path: Path
) -> None:
    api.are_watches_silent = True
    async with following(discovery(api, tmp_path, watch_timeout_s=1)) as seen:
        await seen.until(lambda: len(api.watches()) >= 1)
        api.add(pod("b"))
        await seen.until(lambda: len(api.watches()) >= 2)
        assert len(seen.engines) == 1
        api.are_watches_silent = False
        await seen.until(lambda: len(seen.engines) == 2)
    assert len(api.lists()) == 1


async def test_410_in_a_loop_is_waited_out_longer_each_time(api: KubeApi, tmp_path: Path) -> None:
    api.is_always_gone = True
    source, quick = quick_discovery(api, tmp_path)
    async with following(source) as seen:
        await seen.until(lambda: len(quick.waits) >= 8)
        assert quick.waits[:8] == [0.5, 1, 2, 4, 8, 16, 30, 30]
        assert len(api.lists()) <= len(quick.waits) + 1
        assert len(seen.engines) == 1


async def test_a_server_that_ends_every_watch_at_once_is_not_asked_in_a_tight_loop(
    api: KubeApi, tmp_path: Path
) -> None:
    source, quick = quick_discovery(api, tmp_path)
    async with following(source) as seen:

        def end() -> bool:
            api.end_watches()
            return len(quick.waits) >= 8

        await seen.until(end)
    assert quick.waits[:8] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert source.status.last_error is None


async def test_a_list_comes_at_least_every_so_often(api: KubeApi, tmp_path: Path) -> None:
    async with following(discovery(api, tmp_path, relist_s=1, watch_timeout_s=30)) as seen:
        await seen.until(lambda: seen.listings >= 3)
    assert seen.listings == len(api.lists())


async def test_a_page_that_expires_is_followed_by_one_list_without_pages(
    api: KubeApi, tmp_path: Path
) -> None:
    for number in range(250):
        api.add(pod(f"p{number}", f"10.0.1.{number}"))
    api.expired_tokens = 1
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: len(seen.engines) == 251)
    assert [query.get("limit") for query in api.lists()] == ["100", "100", None]


async def test_pages_are_one_snapshot_and_the_watch_tells_the_rest(
    api: KubeApi, tmp_path: Path
) -> None:
    for number in range(150):
        api.add(pod(f"p{number}", f"10.0.1.{number}"))
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: len(api.lists()) >= 1)
        api.add(pod("late", "10.0.2.1"))
        await seen.until(lambda: len(seen.engines) == 152)
    assert len(api.lists()) == 2


async def test_429_is_left_alone_as_long_as_it_asks(api: KubeApi, tmp_path: Path) -> None:
    api.refusals = [
        Refusal(429, headers={"Retry-After": "7"}),
        Refusal(429, headers={"Retry-After": "86400"}),
        Refusal(503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
    ]
    source, quick = quick_discovery(api, tmp_path)
    async with following(source) as seen:
        await seen.until(lambda: bool(seen.changes))
    assert quick.waits == [7.5, 121, 2]


async def test_a_role_without_watch_is_lived_with_by_listing(
    api: KubeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api.refusals = [Refusal(403, "pods is forbidden", verb="watch", times=1000)]
    source, quick = quick_discovery(api, tmp_path)
    async with following(source) as seen:
        await seen.until(lambda: len(quick.waits) >= 3)
        assert "get, list and watch on pods" in str(source.status.last_error)
        api.add(pod("b"))
        await seen.until(lambda: len(seen.engines) == 2)
        await seen.until(lambda: seen.listings >= 4)
        assert source.status.age_s(quick.clock()) < 60
    assert sum(each.levelname == "WARNING" for each in caplog.records) == 1


async def test_a_version_that_the_server_refuses_for_ever_is_given_up(
    api: KubeApi, tmp_path: Path
) -> None:
    api.refusals = [Refusal(504, "Too large resource version", verb="watch", times=5)]
    source, _ = quick_discovery(api, tmp_path)
    async with following(source) as seen:
        await seen.until(lambda: seen.listings >= 2)
        await seen.until(lambda: bool(api.watchers))
        assert source.status.last_error is None


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"{not json\n", id="not JSON"),
        pytest.param(b"[1]\n", id="not an object"),
        pytest.param(b'{"a":' * 100_000 + b"\n", id="nested without end"),
        pytest.param(b"x" * (8 * 1024 * 1024 + 1), id="a line without end"),
        pytest.param(
            json.dumps(
                {
                    "type": "ERROR",
                    "object": {
                        "code": 500,
                        "message": "etcd",
                        "details": {"retryAfterSeconds": 3},
                    },
                }
            ).encode()
            + b"\n",
            id="an ERROR event",
        ),
        pytest.param(b'{"type":"ERROR"}\n', id="an empty ERROR event"),
    ],
)
async def test_what_a_watch_may_have_lost_is_listed_again(
    api: KubeApi, tmp_path: Path, line: bytes
) -> None:
    source, quick = quick_discovery(api, tmp_path)
    async with following(source) as seen:
        await seen.until(lambda: bool(api.watchers))
        api.tell_watchers(line)
        await seen.until(lambda: seen.listings >= 2)
    assert len(quick.waits) == 1
    assert quick.waits[0] == (3.5 if b"retryAfter" in line else 0.5)


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"SURPRISE","object":{"metadata":{"name":"a","uid":"u"}}}\n',
        b'{"type":"MODIFIED","object":{"metadata":{"name":7}}}\n',
        b'{"type":"DELETED","object":null}\n',
        b'{"type":"ADDED"}\n',
        b'{"type":{"a":[]},"object":"x"}\n\n\n',
        b"{}\n",
    ],
)
async def test_an_event_that_makes_no_sense_is_skipped(
    api: KubeApi, tmp_path: Path, line: bytes
) -> None:
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: bool(api.watchers))
        api.tell_watchers(line)
        api.add(pod("b"))
        await seen.until(lambda: len(seen.engines) == 2)
    assert len(api.watches()) == 1


async def test_a_list_that_is_none_is_a_failure_and_not_an_empty_fleet(
    api: KubeApi, tmp_path: Path
) -> None:
    source, quick = quick_discovery(api, tmp_path)
    async with following(source) as seen:
        await seen.until(lambda: bool(api.watchers))
        api.list_bodies = [
            {"kind": "List"},
            {"metadata": {"resourceVersion": "7"}, "items": {"a": 1}},
        ]
        api.tell_watchers(b"broken\n")
        await seen.until(lambda: seen.listings >= 2)
        assert len(seen.engines) == 1
    assert quick.waits == [0.5, 1, 2]


async def test_items_of_a_list_that_are_no_objects_are_skipped(
    api: KubeApi, tmp_path: Path
) -> None:
    items = [None, 3, {"metadata": 1}, {"metadata": {"name": "x", "uid": ["u"]}}, pod("a")]
    api.list_bodies = [{"metadata": {"resourceVersion": "101"}, "items": items}]
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: list(seen.engines) == ["voice/a/uid-a"])


async def test_stopping_closes_the_connections(
    api: KubeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(discovery(api, tmp_path)) as seen:
        await seen.until(lambda: bool(api.watchers))
    await until(lambda: not api.open_connections)
    assert "nclosed" not in caplog.text
