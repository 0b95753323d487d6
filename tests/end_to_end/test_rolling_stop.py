"""Routers behind a real HAProxy stop one after the other, and no client is told so."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
from tests.clients.servers import free_port
from tests.end_to_end.engines import engines_beside
from tests.end_to_end.processes import router_process
from tests.routers import MODEL, TRANSCRIPTIONS

from vllm_router.audio.wav import silence

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
CLIENTS = 6


@contextlib.contextmanager
def haproxy(folder: Path, routers: list[str]) -> Iterator[str]:
    """Run HAProxy as the documentation has it, and yield its address."""
    (block,) = re.findall(
        r"<!-- tried: haproxy -->\n```haproxy\n(.*?)```", OPERATIONS.read_text(), re.S
    )
    port = free_port()
    backend, count = re.subn(r"(?m)^ +server .*\n", "", block)
    assert count == 2
    # The check is quicker than that, so that the test is.
    backend, count = re.subn(r"inter 1s", "inter 100ms", backend)
    assert count == 1
    servers = "".join(
        f"    server r{i} {url.removeprefix('http://')}\n" for i, url in enumerate(routers)
    )
    config = folder / "haproxy.cfg"
    config.write_text(
        "defaults\n    mode http\n    timeout connect 5s\n    timeout client 60s\n"
        f"frontend clients\n    bind 127.0.0.1:{port}\n    default_backend routers\n"
        f"{backend}{servers}"
    )
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(config)],
            stdout=log,
            stderr=log,
            env={**os.environ, "PATH": path},
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def test_a_router_that_goes_refuses_nothing_if_it_is_given_the_grace(tmp_path: Path) -> None:
    answers: Counter[str] = Counter()
    is_over = asyncio.Event()

    async def upload_on_and_on(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            while not is_over.is_set():
                files = {"file": ("a.wav", silence(1.0))}
                answer = await client.post(TRANSCRIPTIONS, data={"model": MODEL}, files=files)
                answers["200" if answer.status_code == 200 else answer.text] += 1

    with contextlib.ExitStack() as stack:
        engines = stack.enter_context(engines_beside(1, time_scale=1000))
        processes = [
            stack.enter_context(
                router_process(
                    tmp_path / f"log-{number}",
                    [
                        *("--static-backends", engines.urls, "--host", "127.0.0.1"),
                        *("--port", "0", "--shutdown-grace-s", "2"),
                    ],
                )
            )
            for number in range(3)
        ]
        urls = [await asyncio.to_thread(process.wait_until_ready) for process in processes]
        url = stack.enter_context(haproxy(tmp_path, urls))
        async with asyncio.timeout(30):
            while not answers["200"]:
                with contextlib.suppress(httpx.TransportError, AssertionError):
                    async with httpx.AsyncClient(base_url=url) as client:
                        assert (await client.get("/ready")).status_code == 200
                        answers["200"] += 1
                await asyncio.sleep(0.05)
        clients = [asyncio.create_task(upload_on_and_on(url)) for _ in range(CLIENTS)]
        for process in processes[:2]:
            os.kill(process.process.pid, signal.SIGTERM)
            assert await asyncio.to_thread(process.process.wait, 60) == 0
        before = answers["200"]
        async with asyncio.timeout(30):
            while answers["200"] < before + 2 * CLIENTS:
                await asyncio.sleep(0.05)
        is_over.set()
        await asyncio.gather(*clients)
        assert set(answers) == {"200"}, answers
