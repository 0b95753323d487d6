"""Several processes on one port, started as people start them."""

import asyncio
import contextlib
import os
import re
import signal
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from tests.end_to_end.engines import Engines, engines_beside
from tests.end_to_end.processes import Process, router_process
from tests.routers import MODEL, TRANSCRIPTIONS

from vllm_router.audio.wav import silence

ADMIN = {"authorization": "Bearer admin"}


def children(process: Process) -> list[int]:
    pid = process.process.pid
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    found = []
    for child in map(int, text.split()):
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        if b"spawn_main" in command:
            found.append(child)
    return found


async def get(url: str) -> httpx.Response:
    """Ask on a connection of its own, which the kernel gives to either worker."""
    async with httpx.AsyncClient(timeout=30) as client:
        return await client.get(url)


async def post(url: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as client:
        files = {"file": ("a.wav", silence(1.0))}
        return await client.post(url + TRANSCRIPTIONS, data={"model": MODEL}, files=files)


async def until_answers(url: str, state: str) -> None:
    """Wait until every worker shows the engines in a state."""
    async with asyncio.timeout(60):
        right = 0
        while right < 12:
            views = (await get(url + "/engines")).json()
            right = right + 1 if [view["state"] for view in views] == [state] else 0
            await asyncio.sleep(0.02)


@pytest.mark.timeout(240)
async def test_two_workers_are_one_router(tmp_path: Path) -> None:
    with engines_beside(1, time_scale=1000) as engines:
        arguments = [
            *("--static-backends", engines.urls, "--host", "127.0.0.1", "--port", "0"),
            *("--workers", "2", "--admin-key", "admin", "--engine-stats-interval", "0.3"),
            *("--static-backend-health-check-interval", "0.3", "--engine-max-windows", "8"),
        ]
        with router_process(tmp_path / "log", arguments) as process:
            await run(process, engines)
            assert "Traceback" not in "\n".join(process.lines)


async def run(process: Process, engines: Engines) -> None:
    listening = await asyncio.to_thread(process.wait_for, r"listens on (http://\S+)", 2)
    [url] = {said[1] for said in listening}
    await until_answers(url, "ready")

    # Both serve, and one page tells of both.
    answers = await asyncio.gather(*(post(url) for _ in range(30)))
    assert {answer.status_code for answer in answers} == {200}
    done = f'requests_total{{model="{MODEL}",route="transcriptions",status="200"}} 30.0'
    for _ in range(6):
        assert done in (await get(url + "/metrics")).text
    [view] = (await get(url + "/engines")).json()
    assert view["limit_windows"] == 8
    limit = f'vllm_router_engine_limit_windows{{engine="{engines.handles[0].url}"}} 8.0'
    assert limit in (await get(url + "/metrics")).text

    # An operator's word to one is a word to both.
    async with httpx.AsyncClient(timeout=30, headers=ADMIN) as client:
        engine = engines.handles[0].url
        assert (await client.post(f"{url}/engines/{engine}/drain")).status_code == 200
        await until_answers(url, "draining")
        assert (await client.post(f"{url}/engines/{engine}/resume")).status_code == 200
        await until_answers(url, "ready")

    # One that dies is replaced.
    first, second = children(process)
    os.kill(first, signal.SIGKILL)
    await asyncio.to_thread(process.wait_for, r"worker \d died \(exit code -9\)")
    await asyncio.to_thread(process.wait_for, r"listens on", 3)
    await until_answers(url, "ready")
    assert len(children(process)) == 2
    assert second in children(process)
    # What the dead one had counted is not: a sum that falls is a restart of all to Prometheus.
    for _ in range(6):
        assert done in (await get(url + "/metrics")).text

    # Told as a service manager tells: every process, and the parent tells its workers too.
    engines.order(delay_s=2.0)
    upload = asyncio.create_task(post(url))
    async with asyncio.timeout(30):
        while (await get(url + "/engines")).json()[0]["in_flight"] != 1:
            await asyncio.sleep(0.02)
    for pid in (*children(process), process.process.pid):
        os.kill(pid, signal.SIGTERM)
    assert (await upload).status_code == 200
    assert await asyncio.to_thread(process.process.wait, 60) == 0
    assert len(re.findall(r"\bstopped$", "\n".join(process.lines), re.MULTILINE)) == 2


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_temporary_directory_too_long_for_sockets_is_refused_in_a_sentence(
    tmp_path: Path,
) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    arguments = ["--static-backends", "http://127.0.0.1:1", "--port", "0", "--workers", "2"]
    with router_process(tmp_path / "log", arguments, TMPDIR=str(folder)) as process:
        assert process.process.wait(30) != 0
    log = (tmp_path / "log").read_text()
    assert "Set TMPDIR to a shorter directory." in log
    assert "Traceback" not in log


async def test_workers_whose_parent_is_killed_finish_what_they_have_and_go(tmp_path: Path) -> None:
    with (
        # Sockets' paths are short; pytest's directories are not, in a worker of xdist.
        TemporaryDirectory(dir="/tmp") as short,
        engines_beside(1, time_scale=1000) as engines,
    ):
        folder = Path(short)
        arguments = ["--static-backends", engines.urls, "--port", "0", "--workers", "2"]
        with router_process(tmp_path / "log", arguments, TMPDIR=str(folder)) as process:
            said = await asyncio.to_thread(process.wait_for, r"listens on http://\S+:(\d+)", 2)
            url = f"http://127.0.0.1:{said[0][1]}"
            await until_answers(url, "ready")
            engines.order(delay_s=1.0)
            upload = asyncio.create_task(post(url))
            async with asyncio.timeout(30):
                while (await get(url + "/engines")).json()[0]["in_flight"] != 1:
                    await asyncio.sleep(0.02)
            orphans = children(process)
            assert len(orphans) == 2
            process.process.kill()
            assert (await upload).status_code == 200
            async with asyncio.timeout(60):
                while any(map(is_running, orphans)):
                    await asyncio.sleep(0.05)
            log = "\n".join(process.lines)
            assert log.count("the parent process has died; stopping") == 2
            assert len(re.findall(r"\bstopped$", log, re.MULTILINE)) == 2
            assert "Traceback" not in log
            assert not list(folder.glob("vllm-router-*"))


async def test_a_second_signal_to_the_parent_waits_for_nothing(tmp_path: Path) -> None:
    with engines_beside(1, time_scale=1000) as engines:
        arguments = ["--static-backends", engines.urls, "--port", "0", "--workers", "2"]
        with router_process(tmp_path / "log", arguments) as process:
            said = await asyncio.to_thread(process.wait_for, r"listens on http://\S+:(\d+)", 2)
            url = f"http://127.0.0.1:{said[0][1]}"
            await until_answers(url, "ready")
            engines.order(hang="answer")
            upload = asyncio.create_task(post(url))
            async with asyncio.timeout(30):
                while (await get(url + "/engines")).json()[0]["in_flight"] != 1:
                    await asyncio.sleep(0.02)
            os.kill(process.process.pid, signal.SIGTERM)
            await asyncio.to_thread(process.wait_for, "stopping: 1 uploads in flight")
            await asyncio.to_thread(process.signal_again)
            assert await asyncio.to_thread(process.process.wait, 60) == 0
            with pytest.raises(httpx.TransportError):
                await upload


@pytest.mark.timeout(240)
async def test_a_worker_that_dies_while_its_files_are_broken_is_replaced_once_they_are_not(
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret")
    with engines_beside(1, time_scale=1000) as engines:
        arguments = ["--static-backends", engines.urls, "--port", "0", "--workers", "2"]
        arguments += ["--api-key-file", str(keys)]
        with router_process(tmp_path / "log", arguments) as process:
            said = await asyncio.to_thread(process.wait_for, r"listens on http://\S+:(\d+)", 2)
            url = f"http://127.0.0.1:{said[0][1]}"
            await until_answers(url, "ready")
            keys.unlink()
            os.mkfifo(keys)
            os.kill(children(process)[0], signal.SIGKILL)
            await asyncio.to_thread(process.wait_for, r"worker \d died \(exit code 2\)")
            # The other one has kept its keys, and serves.
            client = httpx.AsyncClient(timeout=30, headers={"authorization": "Bearer secret"})
            async with client:
                files = {"file": ("a.wav", silence(1.0))}
                answer = await client.post(url + TRANSCRIPTIONS, data={"model": MODEL}, files=files)
                assert answer.status_code == 200
            keys.unlink()
            keys.write_text("secret")
            await asyncio.to_thread(process.wait_for, r"listens on", 3)
            assert "Traceback" not in "\n".join(process.lines)


async def is_held(port: int) -> socket.socket | None:
    """Return a connection that the router holds, or None if it refused it."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setblocking(False)
    await loop.sock_connect(client, ("127.0.0.1", port))
    try:
        await loop.sock_sendall(client, b"GET /health HTTP/1.1\r\nHost: router\r\n\r\n")
        if await loop.sock_recv(client, 65536):
            return client
    except ConnectionError:
        pass
    client.close()
    return None


@pytest.mark.timeout(240)
async def test_two_workers_hold_as_many_connections_together_as_one_would(tmp_path: Path) -> None:
    arguments = [
        *("--static-backends", "http://127.0.0.1:9", "--host", "127.0.0.1", "--port", "0"),
        *("--workers", "2", "--max-connections", "12", "--no-access-log"),
    ]
    with router_process(tmp_path / "log", arguments) as process:
        said = await asyncio.to_thread(process.wait_for, r"listens on http://\S+:(\d+)", 2)
        port = int(said[0][1])
        held: list[socket.socket] = []
        # Until both have written how many they have, whoever is full cannot know of room.
        async with asyncio.timeout(60):
            while len(held) < 12:
                client = await is_held(port)
                if client is not None:
                    held.append(client)
        assert [await is_held(port) for _ in range(4)] == [None] * 4
        # Any may go, of whichever worker: there is room for as many.
        for turn in range(3):
            for client in held[turn : turn + 4]:
                client.close()
            del held[turn : turn + 4]
            await asyncio.sleep(0.5)
            for _ in range(4):
                client = await is_held(port)
                assert client is not None
                held.append(client)
            assert await is_held(port) is None
        for client in held:
            client.close()


def test_workers_that_cannot_start_end_the_router(tmp_path: Path) -> None:
    arguments = ["--static-backends", "localhost:1", "--port", "0", "--workers", "2"]
    with router_process(tmp_path / "log", arguments) as process:
        assert process.process.wait(60) == 2
        assert "--static-backends" in "\n".join(process.lines)
        assert "Traceback" not in "\n".join(process.lines)
