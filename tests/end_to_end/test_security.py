"""Only the named engines are called, no secret gets out, no audio lies where others read it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import ssl
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trustme
from tests.end_to_end.processes import router_process
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import MODEL, PATIENCE_S, field, file, form, request, running_router, until

from vllm_router.audio.wav import silence
from vllm_router.requests.access import KeyRing, read_keys
from vllm_router.requests.headers import WITHHELD
from vllm_router.spool.upload import Spool


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedHandle]:
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        yield engine


# --- whom the router calls


@contextlib.asynccontextmanager
async def listening(
    answer: Callable[[bytes], bytes], tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Serve one answer per connection; yield the port and the request lines seen."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            head = await reader.readuntil(b"\r\n\r\n")
            seen.append(head.split(b"\r\n", 1)[0])
            writer.write(answer(head))
            await writer.drain()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


def models_or(other: bytes) -> Callable[[bytes], bytes]:
    """Answer as an engine does, but for uploads."""
    models = json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode()

    def answer(head: bytes) -> bytes:
        if head.startswith(b"POST"):
            return other
        body = models if b"/v1/models" in head else b""
        framing = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        return framing % len(body) + body

    return answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed(status: int) -> None:
    async with listening(lambda _: b"") as (elsewhere, calls_elsewhere):
        redirect = (
            b"HTTP/1.1 %d Go\r\nlocation: http://127.0.0.1:%d/v1/audio/transcriptions\r\n"
            b"connection: close\r\ncontent-length: 0\r\n\r\n" % (status, elsewhere)
        )
        async with (
            listening(models_or(redirect)) as (port, calls),
            running_router(f"http://127.0.0.1:{port}") as router,
        ):
            answer = await router.upload()
            assert any(line.startswith(b"POST") for line in calls)
            assert not answer.is_success
            assert calls_elsewhere == []


async def test_neither_a_url_nor_a_host_in_a_request_is_called(engine: SimulatedHandle) -> None:
    async with listening(lambda _: b"") as (port, calls), running_router(engine) as router:
        other = f"127.0.0.1:{port}"
        body = form(
            field("model", MODEL), field("url", f"http://{other}/a.wav"), file(silence(1.0))
        )
        for path in (f"http://{other}/v1/audio/transcriptions", "/v1/audio/transcriptions"):
            headers = (("X-Engine-Id", f"http://{other}"), ("X-Forwarded-Host", other))
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
            async with asyncio.timeout(PATIENCE_S):
                writer.write(request(body, path, headers=headers))
                await reader.readuntil(b"\r\n\r\n")
            writer.close()
        answer = await router.upload(Host=other)
        assert answer.status_code == 200
        assert calls == []


async def test_every_withheld_header_stays_here(engine: SimulatedHandle) -> None:
    """But for those that frame the request, which are made anew, and its id, which is shared."""
    ours = {b"content-length", b"transfer-encoding", b"connection", b"host", b"expect"}
    steering = {"x-stream-format": "vllm", "x-priority": "batch"}
    sent = [name.decode() for name in sorted(WITHHELD - ours - {b"x-request-id"})]
    async with running_router(engine) as router:
        engine.log.clear()
        answer = await router.upload(**{name: steering.get(name, "deny-me") for name in sent})
        assert answer.status_code == 200
        logged = engine.log.audio()[-1]
        assert [name for name in sent if logged.header(name) is not None] == []


# --- TLS to engines


@contextlib.asynccontextmanager
async def behind_tls(engine: SimulatedHandle, tls: ssl.SSLContext) -> AsyncIterator[int]:
    """Put TLS in front of an engine; yield the port."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", engine.port)
        await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


def served_by(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """Return a server's side of TLS with a certificate for a name."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_engines_certificates_are_checked_against_the_given_authority(
    engine: SimulatedHandle, tmp_path: Path
) -> None:
    ours = trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with (
        behind_tls(engine, served_by(ours, "127.0.0.1")) as port,
        running_router(f"https://127.0.0.1:{port}", engine_ca_file=tmp_path / "ca.pem") as router,
    ):
        # Larger than a TLS record and than the sockets' buffers.
        answer = await router.upload(field("model", MODEL), file(silence(50.0)))
        assert answer.status_code == 200


@pytest.mark.parametrize("trouble", ["another authority", "another name", "no authority given"])
async def test_an_engine_that_cannot_prove_its_name_gets_no_audio(
    engine: SimulatedHandle, tmp_path: Path, trouble: str
) -> None:
    ours = trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority = trustme.CA() if trouble == "another authority" else ours
    name = "elsewhere.example" if trouble == "another name" else "127.0.0.1"
    given = {} if trouble == "no authority given" else {"engine_ca_file": tmp_path / "ca.pem"}
    async with (
        behind_tls(engine, served_by(authority, name)) as port,
        running_router(
            f"https://127.0.0.1:{port}", is_ready=False, static_models=(MODEL,), **given
        ) as router,
    ):
        answer = await router.upload()
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "no_engine_ready"
        [view] = await router.engines()
        assert "TLS failed" in json.dumps(view)
        assert engine.log.audio() == []


# --- keys


def test_keys_are_held_as_hashes_only() -> None:
    [holder] = read_keys("alice: sk-very-secret")
    ring = KeyRing([holder])
    assert "sk-very-secret" not in repr(holder)
    assert b"sk-very-secret" not in holder.digest
    assert ring.holder(b"Bearer sk-very-secret") is holder
    assert ring.holder(b"Bearer sk-very-secre") is None


async def test_no_log_metric_or_view_shows_a_key_a_word_or_a_prompt(
    engine: SimulatedHandle, tmp_path: Path
) -> None:
    secrets = {
        "client": "sk-of-the-client",
        "wrong": "sk-that-is-wrong",
        "admin": "sk-of-the-admin",
        "engine": "sk-of-the-engine",
        "prompt": "what-was-prompted",
    }
    (tmp_path / "keys").write_text(f"alice:{secrets['client']}\n")
    with router_process(
        tmp_path / "log",
        [
            "--host", "127.0.0.1", "--port", "0", "--static-backends", engine.url,
            "--api-key-file", str(tmp_path / "keys"), "--log-level", "debug",
        ],
        VLLM_ROUTER_ADMIN_KEY=secrets["admin"],
        VLLM_API_KEY=secrets["engine"],
    ) as process:  # fmt: skip
        url = await asyncio.to_thread(process.wait_until_ready)
        host, port = url.removeprefix("http://").split(":")
        body = form(field("model", MODEL), field("prompt", secrets["prompt"]), file(silence(1.0)))
        shown = []
        for kind, status in (("client", b"200"), ("wrong", b"401")):
            reader, writer = await asyncio.open_connection(host, int(port))
            authorization = ("Authorization", f"Bearer {secrets[kind]}")
            writer.write(request(body, headers=[authorization, ("Connection", "close")]))
            async with asyncio.timeout(PATIENCE_S):
                answer = await reader.read()
            writer.close()
            assert answer.split(b" ")[1] == status
            if kind == "client":
                words = json.loads(answer.split(b"\r\n\r\n", 1)[1])["text"]
                secrets["words"] = words[:24]
        for path in ("/metrics", "/engines", "/health"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"GET {path} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n".encode())
            async with asyncio.timeout(PATIENCE_S):
                shown.append((await reader.read()).decode())
            writer.close()
        await asyncio.to_thread(process.stop)
        shown += process.lines
    text = "\n".join(shown)
    assert 'key="alice"' in text
    assert [kind for kind, secret in secrets.items() if secret in text] == []


async def test_admin_routes_are_closed_without_an_admin_key(engine: SimulatedHandle) -> None:
    async with running_router(engine, api_key="the-clients") as router:
        headers = {"Authorization": "Bearer the-clients"}
        answer = await router.client.post(f"/engines/{engine.url}/drain", headers=headers)
        assert answer.status_code == 403
        [view] = await router.engines()
        assert view["state"] == "ready"


async def test_a_clients_key_does_not_open_admin_routes(engine: SimulatedHandle) -> None:
    async with running_router(engine, api_key="the-clients", admin_key="the-admins") as router:
        path = f"/engines/{engine.url}/drain"
        for key, status in (("the-clients", 401), ("the-admins", 200)):
            answer = await router.client.post(path, headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == status


# --- audio on disk


async def test_spooled_audio_has_no_name_and_is_the_routers_alone(
    engine: SimulatedHandle, tmp_path: Path
) -> None:
    body = form(field("model", MODEL), file(silence(200.0)))
    async with running_router(engine, spool_dir=tmp_path, spool_memory_mb=1) as router:
        _, writer = await asyncio.open_connection("127.0.0.1", router.port)
        whole = request(body)
        writer.write(whole[:-1000])
        [spool, *_] = router.router.spools
        await until(lambda: spool.bytes_on_disk > 0)
        assert list(tmp_path.iterdir()) == []
        held = []
        for name in os.listdir("/proc/self/fd"):
            link = Path("/proc/self/fd") / name
            with contextlib.suppress(OSError):
                if str(link.readlink()).startswith(str(tmp_path)):
                    held.append(stat.S_IMODE(link.stat().st_mode))
        assert held
        assert set(held) == {0o600}
        writer.close()
        await until(lambda: spool.bytes_on_disk == 0)


def test_a_file_without_a_name_is_made_where_the_file_system_lacks_them(tmp_path: Path) -> None:
    """Then it has a name for an instant, of mode 0600."""
    spool = Spool(tmp_path, 1)
    fd = spool._open_unlinked()
    try:
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
        assert os.fstat(fd).st_nlink == 0
        assert list(tmp_path.iterdir()) == []
    finally:
        os.close(fd)
        spool.close()


async def test_an_error_of_the_router_shows_no_insides(
    engine: SimulatedHandle, caplog: pytest.LogCaptureFixture
) -> None:
    """What a client is told names no file, line or type of ours."""
    caplog.set_level(logging.CRITICAL)
    async with running_router(engine) as router:
        for body in (b"", b"--", form(), form(file(b"")), form(field("model", MODEL))):
            answer = await router.client.post(
                "/v1/audio/transcriptions",
                content=body,
                headers={"content-type": "multipart/form-data; boundary=test-boundary-7c1e"},
            )
            assert 400 <= answer.status_code < 500
            for inside in ("Traceback", ".py", "vllm_router", "0x"):
                assert inside not in answer.text
