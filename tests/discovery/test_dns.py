import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.discovery.dns_server import DnsServer, dns_server
from tests.discovery.following import QuickTime, following, until

from vllm_router.discovery.dns import DnsDiscovery
from vllm_router.scheduling.changes import Listing

NAME = "engines.voice.svc"
SERVICE = "_http._tcp.engines.voice.svc"


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with dns_server() as started:
        yield started


def discovery(server: DnsServer, *names: str, **settings: Any) -> DnsDiscovery:
    settings.setdefault("sleep", QuickTime().sleep)
    return DnsDiscovery(names or (NAME,), server=("127.0.0.1", server.port), **settings)


async def test_addresses_come_and_go(server: DnsServer) -> None:
    server.records[NAME, "A"] = ["10.0.0.2", "10.0.0.1"]
    async with following(discovery(server, port=9000)) as seen:
        await seen.until(lambda: len(seen.engines) == 2)
        assert seen.urls == ["http://10.0.0.1:9000", "http://10.0.0.2:9000"]
        server.records[NAME, "A"] = ["10.0.0.2", "10.0.0.3"]
        await seen.until(lambda: seen.urls == ["http://10.0.0.2:9000", "http://10.0.0.3:9000"])


async def test_the_same_addresses_in_another_order_are_no_news(server: DnsServer) -> None:
    server.records[NAME, "A"] = ["10.0.0.1", "10.0.0.2"]
    async with following(discovery(server)) as seen:
        await seen.until(lambda: len(seen.engines) == 2)
        for _ in range(5):
            server.records[NAME, "A"].reverse()
            asked = len(server.questions)
            await until(lambda asked=asked: len(server.questions) > asked)
    assert len(seen.changes) == 1


async def test_ipv6_is_taken_where_there_is_no_ipv4(server: DnsServer) -> None:
    server.records[NAME, "AAAA"] = ["fd00::1"]
    async with following(discovery(server)) as seen:
        await seen.until(lambda: seen.urls == ["http://[fd00::1]:8000"])
        server.records[NAME, "A"] = ["10.0.0.1"]
        await seen.until(lambda: seen.urls == ["http://10.0.0.1:8000"])


async def test_several_names_add_up(server: DnsServer) -> None:
    server.records["a.test", "A"] = ["10.0.0.1", "10.0.0.2"]
    server.records["b.test", "A"] = ["10.0.0.2", "10.0.0.3"]
    async with following(discovery(server, "a.test", "b.test")) as seen:
        await seen.until(lambda: len(seen.engines) == 3)


@pytest.mark.parametrize("has_additional", [True, False])
async def test_srv_records_bring_ports_and_weights(server: DnsServer, has_additional: bool) -> None:
    server.has_additional = has_additional
    server.records["a.test", "A"] = ["10.0.0.1"]
    server.records["b.test", "A"] = ["10.0.0.2"]
    server.records["c.test", "A"] = ["10.0.0.3"]
    server.records["spare.test", "A"] = ["10.0.0.4"]
    server.records[SERVICE, "SRV"] = [
        "0 30 8001 a.test",
        "0 10 8002 b.test",
        "0 20 0 c.test",
        "1 10 8004 spare.test",
    ]
    async with following(discovery(server, SERVICE)) as seen:
        await seen.until(lambda: len(seen.engines) == 2)
    assert {url: spec.weight for url, spec in seen.engines.items()} == {
        "http://10.0.0.1:8001": 1.5,
        "http://10.0.0.2:8002": 0.5,
    }
    assert (server.count("A") == 0) is has_additional


async def test_srv_weights_of_zero(server: DnsServer) -> None:
    server.records["a.test", "A"] = ["10.0.0.1"]
    server.records["b.test", "A"] = ["10.0.0.2"]
    server.records[SERVICE, "SRV"] = ["0 0 80 a.test", "0 0 80 b.test"]
    async with following(discovery(server, SERVICE)) as seen:
        await seen.until(lambda: len(seen.engines) == 2)
        assert {spec.weight for spec in seen.engines.values()} == {1.0}
        server.records[SERVICE, "SRV"] = ["0 0 80 a.test", "0 8 80 b.test"]
        await seen.until(lambda: seen.engines["http://10.0.0.1:80"].weight == 0.01)


async def test_srv_keeps_its_targets_while_everything_fails(server: DnsServer) -> None:
    server.records["a.test", "A"] = ["10.0.0.1"]
    server.records[SERVICE, "SRV"] = ["0 1 80 a.test"]
    source = discovery(server, SERVICE)
    async with following(source) as seen:
        await seen.until(lambda: len(seen.engines) == 1)
        server.failing = {(SERVICE, "SRV"), ("a.test", "A")}
        await until(lambda: source.status.failures > 5)
        assert len(seen.changes) == 1


async def test_a_service_that_says_it_is_not_there_is_believed(server: DnsServer) -> None:
    server.records[SERVICE, "SRV"] = ["0 0 0 ."]
    source = discovery(server, SERVICE)
    async with following(source) as seen:
        await seen.until(lambda: seen.changes == [Listing(())])
        assert source.status.last_error == f"{SERVICE} has no addresses"


@pytest.mark.parametrize("how", ["failing", "silent"])
async def test_a_server_that_fails_keeps_the_last_known(
    server: DnsServer, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.records[NAME, "A"] = ["10.0.0.1"]
    quick = QuickTime()
    source = discovery(server, clock=quick.clock, sleep=quick.sleep, question_s=0.1)
    async with following(source) as seen:
        await seen.until(lambda: len(seen.engines) == 1)
        getattr(server, how).add((NAME, "A"))
        await until(lambda: source.status.failures > 5)
        assert len(seen.engines) == 1
        assert NAME in str(source.status.last_error)
        assert source.status.age_s(quick.clock()) > 3
        getattr(server, how).clear()
        await until(lambda: source.status.last_error is None)
        assert len(seen.changes) == 1
    assert sum(each.levelname == "WARNING" for each in caplog.records) == 1


async def test_before_the_first_answer_nothing_is_claimed(server: DnsServer) -> None:
    server.records[NAME, "A"] = ["10.0.0.1"]
    server.failing.add((NAME, "A"))
    source = discovery(server)
    async with following(source) as seen:
        await until(lambda: source.status.failures > 2)
        assert seen.changes == []
        server.failing.clear()
        await seen.until(lambda: len(seen.engines) == 1)


@pytest.mark.parametrize("is_name_left", [True, False])
async def test_a_name_gone_is_believed_after_three_answers(
    server: DnsServer, is_name_left: bool
) -> None:
    server.records[NAME, "A"] = ["10.0.0.1"]
    if is_name_left:
        server.records[NAME, "TXT"] = []
    quick = QuickTime()
    source = discovery(server, sleep=quick.sleep)
    async with following(source) as seen:
        await seen.until(lambda: len(seen.engines) == 1)
        server.questions.clear()
        del server.records[NAME, "A"]
        await seen.until(lambda: not seen.engines)
        assert server.count("A") >= 3
        assert source.status.last_error == f"{NAME} has no addresses"
        server.records[NAME, "A"] = ["10.0.0.1"]
        await seen.until(lambda: len(seen.engines) == 1)


async def test_a_name_gone_for_a_moment_loses_no_engine(server: DnsServer) -> None:
    server.records[NAME, "A"] = ["10.0.0.1"]
    gate = asyncio.Event()

    async def one_round(_: float) -> None:
        await gate.wait()
        gate.clear()

    source = discovery(server, sleep=one_round)
    async with following(source) as seen:
        await seen.until(lambda: len(seen.engines) == 1)
        for records in ([], ["10.0.0.1"], [], [], ["10.0.0.1"]):
            server.records[NAME, "A"] = records
            asked = server.count("A")
            gate.set()
            await until(lambda asked=asked: server.count("A") > asked)
            await asyncio.sleep(0.02)
    assert len(seen.changes) == 1


@pytest.mark.parametrize(("ttl_s", "wait_s"), [(0, 1), (4, 4), (3600, 10)])
async def test_a_ttl_is_honoured_within_bounds(
    server: DnsServer, ttl_s: int, wait_s: float
) -> None:
    server.ttl_s = ttl_s
    server.records[NAME, "A"] = ["10.0.0.1"]
    quick = QuickTime()
    async with following(discovery(server, sleep=quick.sleep, refresh_s=10)):
        await until(lambda: len(quick.waits) >= 2)
    assert set(quick.waits) == {wait_s}


async def test_an_answer_too_large_for_udp_comes_by_tcp(server: DnsServer) -> None:
    server.records[NAME, "A"] = [f"10.0.{n // 250}.{n % 250 + 1}" for n in range(1000)]
    async with following(discovery(server)) as seen:
        await seen.until(lambda: len(seen.engines) == 1000)
    assert {transport for _, _, transport in server.questions} == {"udp", "tcp"}


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        ([], {}, "needs a name"),
        ([" "], {}, "needs a name"),
        (["a..b"], {}, "not a DNS name"),
        (["x" * 64], {}, "not a DNS name"),
        (["a"], {"port": 0}, "port 0"),
        (["a"], {"server": ("nonsense", 53)}, "no usable DNS server"),
    ],
)
def test_wrong_settings_are_refused_in_words(
    names: list[str], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        DnsDiscovery(names, **settings)


def test_a_source_shows_what_it_asks(server: DnsServer) -> None:
    assert repr(discovery(server)) == f"<DnsDiscovery {NAME} engines=0>"


async def test_srv_weights_however_far_apart_are_bounded(server: DnsServer) -> None:
    server.records[SERVICE, "SRV"] = [
        f"0 {65535 if index == 0 else 1} 80 e{index}.test" for index in range(300)
    ]
    for index in range(300):
        server.records[f"e{index}.test", "A"] = [f"10.0.{index // 250}.{index % 250}"]
    async with following(discovery(server, SERVICE)) as seen:
        await seen.until(lambda: len(seen.engines) == 300)
        assert max(spec.weight for spec in seen.engines.values()) == 100
        assert min(spec.weight for spec in seen.engines.values()) == 0.01


@pytest.mark.parametrize("ttl_s", [0, 1, 2**31 - 1])
async def test_any_ttl_leads_to_a_wait_within_bounds(server: DnsServer, ttl_s: int) -> None:
    server.records[NAME, "A"] = ["10.0.0.1"]
    server.ttl_s = ttl_s
    quick = QuickTime()
    async with following(discovery(server, sleep=quick.sleep, refresh_s=10)) as seen:
        await seen.until(lambda: len(quick.waits) >= 2)
        assert len(seen.engines) == 1
    assert all(1 <= wait <= 10 for wait in quick.waits)


async def test_whoever_follows_anew_is_told_the_list_first(server: DnsServer) -> None:
    server.records[NAME, "A"] = ["10.0.0.1"]
    source = discovery(server)
    for _ in range(2):
        async with following(source) as seen:
            await seen.until(lambda: len(seen.engines) == 1)
            assert isinstance(seen.changes[0], Listing)


@pytest.mark.parametrize("rclass", [0, 255, 0x0101, 0xFFFF])
async def test_an_additional_record_of_another_class_is_no_address(
    server: DnsServer, rclass: int
) -> None:
    server.records[SERVICE, "SRV"] = ["0 1 80 a.test"]
    server.records["a.test", "A"] = ["10.0.0.1"]
    server.additional_class = rclass
    async with following(discovery(server, SERVICE)) as seen:
        await seen.until(lambda: seen.urls == ["http://10.0.0.1:80"])
