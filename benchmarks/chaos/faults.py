"""The faults: what they do, to whom, for how long; never more at a time than the fleet must bear.

At most half of the engines and one router are in trouble at the same time, but for a blackout, in
which all engines are out of reach for a moment and everything must be refused truly.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.chaos import net, nonsense
from benchmarks.chaos.judge import Interval
from benchmarks.chaos.stage import Actor, Stage
from benchmarks.proxies.processes import await_answer

#: A restarted router takes about two seconds to be back, more on a busy machine.
_READY_S = 60.0
_ORDERS: tuple[dict[str, Any], ...] = (
    {"status": 500, "rate": 0.3},
    {"status": 503},
    {"cut_answer_at": 120},
    {"cut_answer_at": 0},
    {"cut_answer_at": 150, "cut_by": "close"},
    {"reset_upload_at": 5000},
    {"garbage": True},
    {"bad_body": True},
    {"hang": "answer", "times": 20},
    {"hang": "body", "times": 20},
    {"refuse": True},
    {"answer_bytes_per_s": 300},
    {"length_off_by": 7, "times": 50},
    {"speed": 0.05},
    {"metrics": "vllm:num_requests_waiting 1e99\n"},
)
#: How soon a router must follow an edit that comes after nonsense: three looks at a key file, with
#: the machine as busy as it is here.
_FOLLOWED_S = 20.0


class Chaos:
    """Brings trouble until it is told to stop.

    Args:
        stage: To whom.
        rng: Decides what and when.
        say: Told what happens.

    Attributes:
        done: How often each fault was brought.
        kills: When routers were killed.
        broken: What a router did that it must not, whatever is done to it.
    """

    def __init__(self, stage: Stage, rng: random.Random, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._rng = rng
        self._say = say
        self._well_engines = set(range(len(stage.engines)))
        self._well_routers = set(range(len(stage.routers)))
        self.done: Counter[str] = Counter()
        self.kills: list[Interval] = []
        self.broken: list[str] = []
        self._engine_faults: dict[str, Callable[[int], Awaitable[None]]] = {
            "engine: SIGKILL": self._kill_engine,
            "engine: SIGTERM and restart": self._restart_engine,
            "engine: SIGSTOP and SIGCONT": self._stop_engine,
            "engine: SIGSTOP while it holds work": self._stop_at_work,
            "engine: misbehaves": self._misbehave,
            "engine: answers early": self._answer_early,
            "source: metrics": self._spoil_metrics,
            "source: models": self._spoil_models,
        }
        if stage.links:
            self._engine_faults["network: cable pulled"] = self._pull
            if "drop" not in stage.lacks:
                self._engine_faults["network: silent cut"] = self._cut
            if "loss" not in stage.lacks:
                self._engine_faults["network: packets lost"] = self._lose
            slow = "narrow line" if "netem" in stage.lacks else "netem delay and loss"
            self._engine_faults[f"network: {slow}"] = self._slow
        self._router_faults: dict[str, Callable[[int], Awaitable[None]]] = {
            "router: SIGTERM, drain, restart": self._drain_router,
            "router: SIGKILL and restart": self._kill_router,
            "router: SIGSTOP and SIGCONT": self._stop_router,
            "source: engines file": self._spoil_engines,
            "source: key file": self._spoil_keys,
        }
        self._other_faults: dict[str, Callable[[], Awaitable[None]]] = {
            "all engines: blackout": self._blackout
        }
        if stage.is_small_spool:
            self._other_faults["disk: spool full"] = self._fill_disk
        if stage.clock_file is not None:
            self._other_faults["clock: jump"] = self._jump

    async def run(self, stop: asyncio.Event) -> None:
        """Bring trouble; returns when all is mended after `stop`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._engine_trouble(stop, 1.0))
            group.create_task(self._engine_trouble(stop, 1.0))
            group.create_task(self._router_trouble(stop))
            group.create_task(self._other_trouble(stop))

    async def _pause(self, stop: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:
            pass

    async def _engine_trouble(self, stop: asyncio.Event, pause_s: float) -> None:
        while not stop.is_set():
            await self._pause(stop, self._rng.uniform(0.5, 2) * pause_s)
            if stop.is_set() or len(self._well_engines) <= len(self._stage.engines) // 2:
                continue
            # Misbehaviour has many kinds.
            names = [*self._engine_faults, *["engine: misbehaves", "engine: answers early"] * 4]
            name = self._rng.choice(names)
            index = self._rng.choice(sorted(self._well_engines))
            self._well_engines.discard(index)
            self._note(name, f"{name} ({index})")
            await self._engine_faults[name](index)
            self._well_engines.add(index)

    async def _router_trouble(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._pause(stop, self._rng.uniform(4, 12))
            if stop.is_set():
                return
            name = self._rng.choices(list(self._router_faults), (3, 1, 1, 3, 2))[0]
            index = self._rng.choice(sorted(self._well_routers))
            self._note(name, f"{name} ({index})")
            await self._router_faults[name](index)

    async def _other_trouble(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._pause(stop, self._rng.uniform(10, 25))
            if stop.is_set():
                return
            name = self._rng.choice(list(self._other_faults))
            self._note(name, name)
            await self._other_faults[name]()

    def _note(self, name: str, words: str) -> None:
        self.done[name] += 1
        self._say(words)

    # --- engines

    async def _kill_engine(self, index: int) -> None:
        engine = self._stage.engines[index]
        engine.kill()
        await asyncio.sleep(self._rng.uniform(0.2, 4))
        engine.start()
        await asyncio.sleep(2)

    async def _restart_engine(self, index: int) -> None:
        engine = self._stage.engines[index]
        engine.signal(signal.SIGTERM)
        await engine.end()
        engine.start()
        await asyncio.sleep(2)

    async def _stop_engine(self, index: int) -> None:
        await hold(self._stage.engines[index], self._rng.uniform(0.2, 14))

    async def _stop_at_work(self, index: int) -> None:
        await until_at_work(self._stage.engine_urls[index])
        # Longer than the deadline of a read: its work must go elsewhere.
        await hold(self._stage.engines[index], self._rng.uniform(3, 25))

    async def _answer_early(self, index: int) -> None:
        url = self._stage.engine_urls[index]
        await asyncio.to_thread(order, url, {"share": self._rng.uniform(0.2, 1)}, "early")
        await asyncio.sleep(self._rng.uniform(2, 8))
        await asyncio.to_thread(order, url, {}, "early")

    async def _spoil_metrics(self, index: int) -> None:
        url = self._stage.engine_urls[index]
        await asyncio.to_thread(order, url, {"metrics": self._rng.choice(nonsense.METRICS)})
        await asyncio.sleep(self._rng.uniform(3, 8))
        await asyncio.to_thread(order, url, {})

    async def _spoil_models(self, index: int) -> None:
        url = self._stage.engine_urls[index]
        body = self._rng.choice(nonsense.MODELS)
        await asyncio.to_thread(order, url, {"body": body}, "models")
        await asyncio.sleep(self._rng.uniform(3, 8))
        await asyncio.to_thread(order, url, {}, "models")

    async def _misbehave(self, index: int) -> None:
        faults = self._rng.choice(_ORDERS)
        self._say(f"  {json.dumps(faults)}")
        engine, url = self._stage.engines[index], self._stage.engine_urls[index]
        process = engine.process
        if await asyncio.to_thread(order, url, faults):
            await asyncio.sleep(self._rng.uniform(1, 6))
        if not await asyncio.to_thread(order, url, {}) and engine.process is process:
            # Who refuses cannot be told to stop refusing.
            await self._kill_engine(index)

    async def _pull(self, index: int) -> None:
        link = self._stage.links[index]
        await asyncio.to_thread(net.pull, link, is_out=True)
        await asyncio.sleep(self._rng.uniform(0.5, 8))
        await asyncio.to_thread(net.pull, link, is_out=False)

    async def _cut(self, index: int) -> None:
        link = self._stage.links[index]
        await asyncio.to_thread(net.drop, link, None)
        await asyncio.sleep(self._rng.uniform(0.5, 12))
        await asyncio.to_thread(net.let_pass, link)

    async def _lose(self, index: int) -> None:
        link = self._stage.links[index]
        await asyncio.to_thread(net.drop, link, self._rng.uniform(0.02, 0.3))
        await asyncio.sleep(self._rng.uniform(2, 10))
        await asyncio.to_thread(net.let_pass, link)

    async def _slow(self, index: int) -> None:
        link, has_netem = self._stage.links[index], "netem" not in self._stage.lacks
        delay_ms, loss = self._rng.randrange(20, 200), self._rng.uniform(0, 0.05)
        await asyncio.to_thread(net.slow, link, delay_ms, loss, has_netem=has_netem)
        await asyncio.sleep(self._rng.uniform(2, 10))
        await asyncio.to_thread(net.quicken, link)

    async def _blackout(self) -> None:
        stage = self._stage
        if stage.links and "drop" not in stage.lacks:
            # Rules of another fault go too when this one is mended: it ends early, no more.
            for link in stage.links:
                await asyncio.to_thread(net.drop, link, None)
            await asyncio.sleep(self._rng.uniform(1, 5))
            for link in stage.links:
                await asyncio.to_thread(net.let_pass, link)
            return
        for engine in stage.engines:
            engine.signal(signal.SIGSTOP)
        await asyncio.sleep(self._rng.uniform(1, 5))
        for engine in stage.engines:
            engine.signal(signal.SIGCONT)

    # --- routers

    async def _drain_router(self, index: int) -> None:
        router = self._stage.routers[index]
        router.signal(signal.SIGTERM)
        await router.end()
        if router.process is not None and router.process.returncode != 0:
            self._say(f"  {router.name} ended with {router.process.returncode}")
            self.done["(a router that was drained ended badly)"] += 1
        await self._start_router(index)

    async def _kill_router(self, index: int) -> None:
        router = self._stage.routers[index]
        start = asyncio.get_running_loop().time()
        router.kill()
        # HAProxy has seen it dead, and the last connection to it has been reset, before a second
        # is over.
        self.kills.append(Interval(start - 0.05, start + 1.0))
        await asyncio.sleep(self._rng.uniform(0.2, 3))
        await self._start_router(index)

    async def _start_router(self, index: int) -> None:
        router = self._stage.routers[index]
        router.start()
        assert router.process is not None
        url = f"{self._stage.router_urls[index]}/ready"
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                await asyncio.to_thread(await_answer, url, router.process, router.log)
                return
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise

    async def _stop_router(self, index: int) -> None:
        await hold(self._stage.routers[index], self._rng.uniform(0.1, 3))

    async def _spoil_engines(self, index: int) -> None:
        sources, url = self._stage.sources[index], self._stage.router_urls[index]
        what = f"an engines file: {sources.spoil_engines()}"
        self._say(f"  {what}")
        await asyncio.sleep(self._rng.uniform(1.5, 4))
        label = sources.mend_engines()
        await self._must_follow(index, what, lambda: nonsense.has_label(url, label))

    async def _spoil_keys(self, index: int) -> None:
        sources, url = self._stage.sources[index], self._stage.router_urls[index]
        what = f"a key file: {sources.spoil_keys()}"
        self._say(f"  {what}")
        await asyncio.sleep(self._rng.uniform(1.5, 4))
        key = sources.mend_keys()
        await self._must_follow(index, what, lambda: nonsense.takes_key(url, key))

    async def _must_follow(self, index: int, what: str, has_followed: Callable[[], bool]) -> None:
        """Require a router to follow an edit; one that is dead or frozen is started anew."""
        router = self._stage.routers[index]
        deadline = time.monotonic() + _FOLLOWED_S
        while not await asyncio.to_thread(has_followed):
            is_dead = router.process is not None and router.process.poll() is not None
            if is_dead or time.monotonic() > deadline:
                how = "ended after" if is_dead else "followed no edit after"
                self.broken.append(f"{router.name} {how} {what}")
                self._say(f"  VIOLATION {self.broken[-1]}")
                router.kill()
                await self._start_router(index)
                return
            await asyncio.sleep(0.2)

    # --- the machine

    async def _fill_disk(self) -> None:
        name = self._stage.spool / "filler"
        fd = os.open(name, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            # What uploads give back is taken too: the disk stays full.
            until = time.monotonic() + self._rng.uniform(1, 6)
            block = bytes(2**16)
            while time.monotonic() < until:
                try:
                    os.write(fd, block)
                except OSError:
                    await asyncio.sleep(0.01)
        finally:
            os.close(fd)
            name.unlink()

    async def _jump(self) -> None:
        self._stage.set_clock(self._rng.choice((-86_400, -3_600, -30, 30, 3_600, 86_400)))
        await asyncio.sleep(self._rng.uniform(2, 8))
        self._stage.set_clock(0)


async def hold(actor: Actor, seconds: float) -> None:
    """Stop a process and let it go on after so many seconds."""
    # The process itself, in a namespace too: `ip netns exec` becomes what it starts.
    actor.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    actor.signal(signal.SIGCONT)


async def until_at_work(url: str) -> None:
    """Wait until an engine holds uploads, for a while."""
    for _ in range(200):
        if await asyncio.to_thread(load_of, url):
            return
        await asyncio.sleep(0.005)


def load_of(url: str) -> int:
    """Return how many uploads an engine holds; 0 if it does not say."""
    try:
        with urllib.request.urlopen(f"{url}/load", timeout=1) as answer:
            return int(json.loads(answer.read())["server_load"])
    except (OSError, http.client.HTTPException, ValueError):
        return 0


def order(url: str, faults: dict[str, Any], what: str = "faults") -> bool:
    """Order an engine's misbehaviour; False if it does not listen."""
    request = urllib.request.Request(f"{url}/simulate/{what}", json.dumps(faults).encode())
    try:
        urllib.request.urlopen(request, timeout=2).close()
    except OSError:
        return False
    return True
