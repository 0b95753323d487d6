import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from tests.discovery.following import following
from tests.discovery.kube_api import KubeApi, Refusal, kube_api, kubeconfig, pod
from tests.discovery.test_kube_objects import JSON

from vllm_router.discovery.kube_access import KubeAccess, find_access
from vllm_router.discovery.kube_client import (
    KubeClient,
    KubeError,
    KubeGarbled,
    KubeRefused,
    KubeSilent,
    event_refusal,
)
from vllm_router.discovery.kube_objects import mapping
from vllm_router.discovery.kubernetes import KubernetesDiscovery

PODS = "/api/v1/namespaces/voice/pods"


@pytest.fixture
async def api() -> AsyncIterator[KubeApi]:
    async with kube_api() as server:
        yield server


@pytest.fixture
async def tls_api(tmp_path: Path) -> AsyncIterator[KubeApi]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    async with kube_api() as server:
        await server.stop()
        server.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(server.tls)
        await server.start()
        yield server


def in_cluster(directory: Path, api: KubeApi, token: str = "first") -> KubeAccess:
    (directory / "token").write_text(token)
    (directory / "namespace").write_text("voice\n")
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
    return find_access(None, environ=environ, home=directory, service_account=directory)


def by_file(directory: Path, path: str) -> KubeAccess:
    return find_access(path, environ={}, home=directory)


async def test_in_cluster_the_service_account_speaks_for_us_over_tls(
    tls_api: KubeApi, tmp_path: Path
) -> None:
    tls_api.token = "first"
    tls_api.add(pod("a"))
    async with following(KubernetesDiscovery(in_cluster(tmp_path, tls_api))) as seen:
        await seen.until(lambda: len(seen.engines) == 1)
    path, _, headers = tls_api.requests[0]
    assert path == PODS
    assert headers["authorization"].lower() == "bearer first"
    assert "json" in headers["accept"]


async def test_a_rotated_token_is_read_again(tls_api: KubeApi, tmp_path: Path) -> None:
    tls_api.token = "first"
    tls_api.add(pod("a"))
    source = KubernetesDiscovery(in_cluster(tmp_path, tls_api, "first\n"))
    async with following(source) as seen:
        await seen.until(lambda: bool(tls_api.watchers))
        tls_api.token = "second"
        tls_api.add(pod("b"))
        tls_api.drop()
        await seen.until(lambda: "credentials" in str(source.status.last_error))
        (tmp_path / "token").write_text("second")
        tls_api.add(pod("c"))
        await seen.until(lambda: len(seen.engines) == 3)
        await seen.until(lambda: source.status.last_error is None)


async def test_a_server_with_another_authority_is_not_trusted(
    tls_api: KubeApi, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.crt")
    client = KubeClient(in_cluster(tmp_path, tls_api))
    with pytest.raises(KubeError, match="certificate verify failed"):
        await client.get(PODS, [], 10)
    await client.close()


async def test_a_service_account_without_a_ca_is_reported(api: KubeApi, tmp_path: Path) -> None:
    client = KubeClient(in_cluster(tmp_path, api))
    with pytest.raises(KubeError, match=r"in cluster cannot be used: .*[Cc]ert"):
        await client.get(PODS, [], 10)


async def test_a_token_that_vanishes_is_reported(tls_api: KubeApi, tmp_path: Path) -> None:
    client = KubeClient(in_cluster(tmp_path, tls_api, ""))
    with pytest.raises(KubeError, match="Token file exists but empty"):
        await client.get(PODS, [], 10)


async def test_the_namespace_is_the_pods_own_or_the_contexts_or_default(
    api: KubeApi, tmp_path: Path
) -> None:
    access = in_cluster(tmp_path, api)
    assert await KubeClient(access).namespace() == "voice"
    (tmp_path / "namespace").unlink()
    assert await KubeClient(access).namespace() == "default"
    path = Path(kubeconfig(tmp_path, api))
    client = KubeClient(by_file(tmp_path, str(path)))
    assert await client.namespace() == "voice"
    await client.close()
    path.write_text(path.read_text().replace('"namespace": "voice"', '"extensions": []'))
    client = KubeClient(by_file(tmp_path, str(path)))
    assert await client.namespace() == "default"
    await client.close()


async def test_a_kubeconfigs_token_and_authority_are_used(tls_api: KubeApi, tmp_path: Path) -> None:
    tls_api.token = "secret"
    ca = {"certificate-authority": str(tmp_path / "ca.crt")}
    client = KubeClient(by_file(tmp_path, kubeconfig(tmp_path, tls_api, {"token": "secret"}, **ca)))
    assert (await client.get(PODS, [], 10))["kind"] == "List"
    assert repr(client).endswith("open>")
    await client.close()
    assert repr(client).endswith("closed>")


async def test_an_exec_plugin_is_asked_again_after_a_401(api: KubeApi, tmp_path: Path) -> None:
    words = tmp_path / "token"
    words.write_text("one")
    plugin = (
        "import json, pathlib; print(json.dumps({'apiVersion': "
        "'client.authentication.k8s.io/v1', 'kind': 'ExecCredential', 'status': "
        f"{{'token': pathlib.Path({str(words)!r}).read_text()}}}}))"
    )
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": ["-c", plugin],
        }
    }
    api.token = "one"
    client = KubeClient(by_file(tmp_path, kubeconfig(tmp_path, api, user)))
    assert await client.get(PODS, [], 10)
    api.token = "two"
    words.write_text("two")
    with pytest.raises(KubeRefused) as caught:
        await client.get(PODS, [], 10)
    assert caught.value.status == 401
    assert await client.get(PODS, [], 10)
    await client.close()


@pytest.mark.parametrize("text", ["", "[]", "{}", "clusters: {", "current-context: x\ncontexts: 7"])
async def test_a_kubeconfig_that_is_none_is_named(api: KubeApi, tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(KubeError, match=rf"kubeconfig {path} cannot be used: \S"):
        await KubeClient(by_file(tmp_path, str(path))).namespace()


async def test_a_refusal_says_what_the_server_said(api: KubeApi, tmp_path: Path) -> None:
    api.refusals = [Refusal(429, "slow down", {"Retry-After": "3"}), Refusal(503, "x" * 1000)]
    client = KubeClient(by_file(tmp_path, kubeconfig(tmp_path, api)))
    with pytest.raises(KubeRefused, match="HTTP 429: slow down") as caught:
        await client.get(PODS, [], 10)
    assert caught.value.retry_after_s == 3.0
    with pytest.raises(KubeRefused) as caught:
        await client.get(PODS, [], 10)
    assert caught.value.retry_after_s is None
    assert len(str(caught.value)) < 400
    await client.close()


async def test_a_server_that_is_not_there_is_an_error_with_its_address(
    api: KubeApi, tmp_path: Path
) -> None:
    client = KubeClient(by_file(tmp_path, kubeconfig(tmp_path, api)))
    await api.stop()
    with pytest.raises(KubeError, match=f"127.0.0.1:{api.port}"):
        await client.get(PODS, [], 10)
    await client.close()


async def answering(head: bytes, body: bytes, then_s: float) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n" + body)
        await asyncio.sleep(then_s)
        writer.transport.abort()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("head", "body", "then_s", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4", b"nope", 0, KubeGarbled),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2", b"[]", 0, KubeGarbled),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9", b"{}", 0.1, KubeError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9", b"{}", 5, KubeSilent),
        (b"nonsense", b"", 0, KubeError),
        (b"HTTP/1.1 500 X\r\nContent-Length: 4", b"<ht>", 0, KubeRefused),
        (b"HTTP/1.1 500 X\r\nContent-Length: 9", b"{", 5, KubeRefused),
    ],
)
async def test_whatever_comes_becomes_one_of_our_errors(
    api: KubeApi, tmp_path: Path, head: bytes, body: bytes, then_s: float, error: type[KubeError]
) -> None:
    server = await answering(head, body, then_s)
    api.port, port = server.sockets[0].getsockname()[1], api.port
    client = KubeClient(by_file(tmp_path, kubeconfig(tmp_path, api)))
    api.port = port
    with pytest.raises(error) as caught:
        await client.get(PODS, [], 0.5)
    assert type(caught.value) is error
    await client.close()
    server.close()


async def test_a_server_that_never_answers_is_left(api: KubeApi, tmp_path: Path) -> None:

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    api.port, port = server.sockets[0].getsockname()[1], api.port
    client = KubeClient(by_file(tmp_path, kubeconfig(tmp_path, api)))
    api.port = port
    with pytest.raises(KubeError, match="no answer in time"):
        await client.get(PODS, [], 0.2)
    await client.close()
    server.close()


async def test_a_watch_gives_events_until_its_end(api: KubeApi, tmp_path: Path) -> None:
    client = KubeClient(by_file(tmp_path, kubeconfig(tmp_path, api)))
    query = [("watch", "true"), ("resourceVersion", "100"), ("timeoutSeconds", "30")]
    api.add(pod("a"))
    with closing(await client.watch(PODS, query, 30)) as answer:
        events = []
        while not events:
            events = await answer.events() or []
        assert [event["type"] for event in events] == ["ADDED"]
        api.end_watches()
        while (events := await answer.events()) == []:
            pass
        assert events is None
    answer.close()
    await client.close()


def test_an_error_event_is_a_refusal() -> None:
    gone = event_refusal({"code": 410, "message": "too old", "details": {"retryAfterSeconds": 2}})
    assert (gone.status, str(gone), gone.retry_after_s) == (410, "HTTP 410: too old", 2.0)
    assert event_refusal({"code": True, "reason": "Expired"}).status == 500
    assert str(event_refusal({})) == "HTTP 500: an ERROR event"


def test_the_kubernetes_package_costs_nothing_until_a_client_opens() -> None:
    code = (
        "import sys, vllm_router.discovery.kubernetes; "
        "print(sorted({'kubernetes', 'aiohttp'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(said.stdout) == []


@pytest.mark.parametrize(
    ("asked", "wait_s"),
    [(10**400, 86_400.0), (-5, 0.0), (0, 0.0), (True, None), ("3", None), (2.5, None), ([], None)],
)
def test_a_wait_that_no_clock_can_hold_is_bounded(asked: object, wait_s: float | None) -> None:
    refusal = event_refusal({"code": 429, "details": {"retryAfterSeconds": asked}})
    assert refusal.retry_after_s == wait_s


@pytest.mark.parametrize("code", [10**400, -1, 0, None, "410", 410.5])
def test_a_code_that_is_no_status_is_a_failure_of_the_server(code: object) -> None:
    assert event_refusal({"code": code}).status == 500


async def test_a_wait_of_many_digits_is_bounded(api: KubeApi, tmp_path: Path) -> None:
    client = KubeClient(by_file(tmp_path, kubeconfig(tmp_path, api)))
    api.refusals = [Refusal(429, "slow down", {"Retry-After": "9" * 4000})]
    with pytest.raises(KubeRefused) as caught:
        await client.get(PODS, [], 10)
    assert caught.value.retry_after_s == 86_400.0
    await client.close()


async def test_a_kubeconfig_that_became_a_pipe_is_told_and_does_not_stop_the_loop(
    api: KubeApi, tmp_path: Path
) -> None:
    path = kubeconfig(tmp_path, api)
    client = KubeClient(by_file(tmp_path, path))
    Path(path).unlink()
    os.mkfifo(path)
    async with asyncio.timeout(20):
        with pytest.raises(KubeError, match="it is not a regular file"):
            await client.get(PODS, [], 10)


@pytest.mark.parametrize("written", ["", "../../..", "a/b", "\xff", "x" * 2000])
async def test_a_namespace_that_is_none_is_not_asked_for(
    api: KubeApi, tmp_path: Path, written: str
) -> None:
    access = in_cluster(tmp_path, api)
    (tmp_path / "namespace").write_text(written, encoding="latin-1")
    namespace = await KubeClient(access).namespace()
    assert "/" not in namespace
    assert namespace.isascii()


@given(
    JSON
    | st.fixed_dictionaries(
        {},
        optional={
            "message": JSON,
            "reason": JSON,
            "code": JSON | st.just(10**400),
            "details": JSON | st.fixed_dictionaries({"retryAfterSeconds": JSON | st.just(10**400)}),
        },
    )
)
def test_any_error_event_is_a_refusal_with_a_bounded_wait(status: Any) -> None:
    refusal = event_refusal(mapping(status))
    assert 100 <= refusal.status <= 999
    assert refusal.retry_after_s is None or 0 <= refusal.retry_after_s <= 86_400
    assert len(str(refusal)) < 400
