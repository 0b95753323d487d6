"""Engines from DNS: the addresses of a headless Service, or its SRV records.

Promises: a name that begins with ``_`` (``_http._tcp.engines.voice.svc``) is queried for SRV, which
provides ports and weights. Any other name is queried for A, and for AAAA if it has no A: an engine
with both is one engine, and nothing else would show that. Answers are kept for their TTL, between
1 s and ``refresh_s``. A server failure (SERVFAIL, a timeout) proves nothing and keeps the known
engines. A name is considered gone or empty after three such answers in a row, because cluster DNS
briefly gives them while a Service is replaced.

Bounds: DNS has no identities, so an engine is its URL, and a new engine at the same address counts
as the same one. One answer holds some 4,000 addresses (64 KiB over TCP), and at most 10,000 engines
are accepted in total. Weights are clamped to 0.01 to 100. Each query has a deadline.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dns.asyncresolver import Resolver
from dns.exception import DNSException
from dns.name import from_text, root
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType
from dns.resolver import NXDOMAIN, LifetimeTimeout, NoAnswer

from vllm_router.discovery.source import DiscoveryStatus
from vllm_router.scheduling.changes import Change, Listing
from vllm_router.scheduling.engine import EngineId, EngineSpec
from vllm_router.scheduling.engine_bounds import MAX_ENGINES, bounded_weight
from vllm_router.scheduling.engine_url import address_url

logger = logging.getLogger(__name__)

_QUESTION_S = 5.0
_TTL_MIN_S = 1.0
_EMPTY_BEFORE_BELIEVED = 3
# Concurrent queries for SRV targets whose addresses are not in the answer.
_PARALLEL = 16

_Question = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Target:
    host: str
    port: int
    weight: float


@dataclass(slots=True)
class _Memory:
    """A query's last records (None if it was never answered) and the empty answers since."""

    records: tuple[Any, ...] | None = None
    empty_in_a_row: int = 0


class _Look:
    """One round of queries, based on the results of the previous round."""

    def __init__(
        self, resolver: Resolver, before: Mapping[_Question, _Memory], refresh_s: float
    ) -> None:
        self._resolver = resolver
        self._before = before
        self._slots = asyncio.Semaphore(_PARALLEL)
        self.learned: dict[_Question, _Memory] = {}
        self.failures: list[str] = []
        self.empty: list[str] = []
        self.next_in_s = refresh_s

    async def ask(self, name: str, kind: str) -> tuple[Any, ...] | None:
        """Return the known records of a name; None if nothing is known."""
        question = (name, kind)
        if question in self.learned:
            return self.learned[question].records
        memory = self._before.get(question) or _Memory()
        try:
            async with self._slots:
                answer = await self._resolver.resolve(name, kind, search=True)
        except (NXDOMAIN, NoAnswer):
            memory.empty_in_a_row += 1
            if memory.records is None or memory.empty_in_a_row >= _EMPTY_BEFORE_BELIEVED:
                memory.records = ()
            self.learned[question] = memory
        except (DNSException, OSError) as error:
            # A timeout's message contains its milliseconds and would look new each time.
            is_late = isinstance(error, LifetimeTimeout)
            said = "no answer in time" if is_late else " ".join(str(error).split())[:200]
            self.failures.append(f"{kind} of {name}: {said}")
            self.learned[question] = memory
        else:
            self._learn(question, answer, answer.chaining_result.minimum_ttl)
            if kind == "SRV":
                for extra in answer.response.additional:
                    # With another class, it is not an address, whatever its type.
                    if extra.rdtype == RdataType.A and extra.rdclass == RdataClass.IN:
                        self._learn((extra.name.to_text(), "A"), extra, extra.ttl)
        return self.learned[question].records

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Return a host's IPv4 addresses, or else its IPv6 addresses."""
        for kind in ("A", "AAAA"):
            records = await self.ask(host, kind)
            if records or records is None:
                return tuple(record.address for record in records or ())
        self.empty.append(host)
        return ()

    def _learn(self, question: _Question, records: Iterable[Any], ttl_s: float) -> None:
        # Servers rotate the order with each answer.
        self.learned[question] = _Memory(tuple(sorted(records)))
        self.next_in_s = max(_TTL_MIN_S, min(self.next_in_s, ttl_s))


class DnsDiscovery:
    """The engines behind DNS names.

    Args:
        names: One or more; those beginning with ``_`` are queried for SRV.
        port: The engines' port if no SRV record provides one.
        refresh_s: Maximum time between queries, in seconds.
        server: Address and port of the DNS server; None uses /etc/resolv.conf.
        question_s: Deadline of one query, in seconds.
        clock: Monotonic seconds.
        sleep: Waits between queries.

    Raises:
        ValueError: No names, no usable port, or /etc/resolv.conf cannot be used.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        port: int = 8000,
        refresh_s: float = 10.0,
        server: tuple[str, int] | None = None,
        question_s: float = _QUESTION_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not names or not all(name.strip() for name in names):
            raise ValueError("DNS discovery needs a name to query")
        if not 0 < port < 65536:
            raise ValueError(f"port {port} is not between 1 and 65535")
        self._names = tuple(dict.fromkeys(name.strip() for name in names))
        for name in self._names:
            try:
                from_text(name)
            except (DNSException, UnicodeError) as error:
                raise ValueError(f'"{name}" is not a DNS name: {error}') from None
        self._port = port
        self._refresh_s = refresh_s
        self._clock = clock
        self._sleep = sleep
        self._known: dict[_Question, _Memory] = {}
        self._specs: tuple[EngineSpec, ...] | None = None
        self._resolver = _resolver(server)
        self._resolver.lifetime = question_s
        self.status = DiscoveryStatus(f"DNS {', '.join(self._names)}", clock())

    def __repr__(self) -> str:
        return f"<DnsDiscovery {', '.join(self._names)} engines={len(self._specs or ())}>"

    async def changes(self) -> AsyncGenerator[Change]:
        """Yield a Listing whenever the answers change, forever."""
        # A new consumer gets a Listing first, whatever earlier ones received.
        self._specs = None
        while True:
            look = _Look(self._resolver, self._known, self._refresh_s)
            specs = await self._engines(look)
            _stop_if_cancelled()
            self._known = look.learned
            self._judge(look)
            # No results from a round with failures does not mean that there are no engines.
            if specs != self._specs and (specs or not look.failures):
                self._specs = specs
                yield Listing(specs)
            await self._sleep(look.next_in_s)

    async def _engines(self, look: _Look) -> tuple[EngineSpec, ...]:
        specs: dict[str, EngineSpec] = {}
        for name in self._names:
            targets = await self._targets(look, name)
            async with asyncio.TaskGroup() as group:
                asked = [
                    (target, group.create_task(look.addresses(target.host))) for target in targets
                ]
            for target, found in asked:
                for address in found.result():
                    url = address_url(address, target.port)
                    specs[url] = EngineSpec(EngineId(url), url, weight=target.weight)
        if len(specs) > MAX_ENGINES:
            look.failures.append(f"more than {MAX_ENGINES} addresses; some are ignored")
        return tuple(specs[url] for url in sorted(specs)[:MAX_ENGINES])

    async def _targets(self, look: _Look, name: str) -> list[_Target]:
        if not name.startswith("_"):
            return [_Target(name, self._port, 1.0)]
        answer = await look.ask(name, "SRV")
        records = [each for each in answer or () if each.target != root]
        if not records:
            if answer is not None:
                look.empty.append(name)
            return []
        # Lower-priority targets stand by until all of these are gone (RFC 2782).
        first = min(each.priority for each in records)
        records = [each for each in records if each.priority == first]
        mean = sum(each.weight for each in records) / len(records)
        return [
            _Target(
                each.target.to_text(),
                each.port,
                # 0 means "hardly ever" next to other weights (RFC 2782).
                bounded_weight(each.weight / mean) if mean else 1.0,
            )
            for each in records
            if each.port
        ]

    def _judge(self, look: _Look) -> None:
        if look.failures:
            why = look.failures[0]
            if self.status.failed(why):
                logger.warning("%s: %s; keeping known engines", self.status.source, why)
            return
        self.status.synced(self._clock())
        if look.empty:
            why = f"{look.empty[0]} has no addresses"
            if self.status.failed(why):
                logger.warning("%s: %s", self.status.source, why)
        elif self.status.recovered():
            logger.info("%s: answering again", self.status.source)


def _stop_if_cancelled() -> None:
    """Act on a cancellation that was lost.

    dnspython waits with `asyncio.wait_for`. Before Python 3.12, that swallows a cancellation
    that arrives at the same moment as the answer, and the router could not be stopped.

    Raises:
        CancelledError: The task was cancelled.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _resolver(server: tuple[str, int] | None) -> Resolver:
    try:
        resolver = Resolver(configure=server is None)
        if server is not None:
            resolver.nameservers = [server[0]]
            resolver.port = server[1]
    except (DNSException, ValueError, OSError) as error:
        raise ValueError(f"no usable DNS server: {error}") from None
    return resolver
