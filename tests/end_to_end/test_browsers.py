"""Pages of other origins: what browsers ask, and what real Chromium lets a page read."""

import http.server
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from tests.end_to_end.engines import engines_beside
from tests.end_to_end.processes import router_process
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.packaging.chromium import chromium
from tests.routers import (
    MODEL,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    field,
    file,
    request,
    running_router,
)
from tests.server.serving import client

from vllm_router.audio.wav import silence

PAGE = "https://app.example"
ASKS = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,x-stainless-os",
}
ADMIN = "/engines/http://a/drain"


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedHandle]:
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        yield engine


def allowed(answer: httpx.Response) -> str | None:
    """Return the origin whose pages may read an answer, checking that it is said once."""
    origins = answer.headers.get_list("access-control-allow-origin")
    assert len(origins) <= 1
    if origins:
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
    return origins[0] if origins else None


# --- preflights


@pytest.mark.parametrize(
    "path", [TRANSCRIPTIONS, TRANSLATIONS + "/", "/v1/models", "/metrics", "/engines", "/nothing"]
)
async def test_a_preflight_needs_neither_a_key_nor_an_engine(path: str) -> None:
    settings = {"static_backends": "http://127.0.0.1:9", "api_key": "k", "admin_key": "a"}
    async with running_router(is_ready=False, root_path="/asr", **settings) as router:
        for prefix in ("", "/asr"):
            answer = await router.client.options(prefix + path, headers=ASKS)
            assert (answer.status_code, answer.content) == (204, b"")
            assert allowed(answer) == "*"
            assert "POST" in answer.headers["access-control-allow-methods"]
            named = answer.headers["access-control-allow-headers"]
            assert named == ASKS["access-control-request-headers"]
            assert int(answer.headers["access-control-max-age"]) > 600
        assert router.router.service.in_flight == 0


async def test_pages_have_no_business_at_admin_routes(engine: SimulatedHandle) -> None:
    async with running_router(engine, admin_key="a", root_path="/asr") as router:
        for path in (ADMIN, ADMIN + "/", "/asr" + ADMIN, "/engines//resume", "/engines/x"):
            for method in ("OPTIONS", "POST", "GET"):
                key = {"authorization": "Bearer a"}
                answer = await router.client.request(method, path, headers={**ASKS, **key})
                assert answer.status_code in (404, 405), (method, path)
                assert allowed(answer) is None
                assert "access-control-allow-methods" not in answer.headers


async def test_an_origin_that_is_not_listed_is_told_so(engine: SimulatedHandle) -> None:
    async with running_router(engine, cors_origins="https://other.example") as router:
        answer = await router.client.options(TRANSCRIPTIONS, headers=ASKS)
        assert answer.status_code == 403
        assert PAGE in answer.json()["error"]["message"]
        assert allowed(answer) is None


# --- answers


async def test_every_answer_can_be_read_by_pages(engine: SimulatedHandle) -> None:
    settings = {"api_key": "k", "max_upload_mb": 1, "static_aliases": f"a:{MODEL}"}
    key = {"authorization": "Bearer k", "origin": PAGE}
    wrong = {"authorization": "Bearer x", "origin": PAGE}
    model, audio = field("model", MODEL), file(silence(1.0))
    async with running_router(engine, **settings) as router:
        for parts, headers, status in (
            ((model, audio), key, 200),
            ((model, field("stream", "true"), audio), key, 200),
            ((model, field("response_format", "srt"), audio), key, 200),
            ((model, audio), wrong, 401),
            ((field("model", "nobody"), audio), key, 404),
            ((model, file(bytes(2_000_000))), key, 413),
        ):
            answer = await router.upload(*parts, **headers)
            assert answer.status_code == status
            assert allowed(answer) == "*"
        for path, status in (
            ("/health", 200),
            ("/v1/models", 401),
            ("/docs", 200),
            ("/nothing", 404),
            (TRANSCRIPTIONS, 405),
        ):
            answer = await router.client.get(path, headers={"origin": PAGE})
            assert (answer.status_code, allowed(answer)) == (status, "*")
        # Whoever is no page gets what it always got.
        answer = await router.upload(model, audio, authorization="Bearer k")
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_an_error_within_a_body_and_one_without_a_request_can_be_read(
    engine: SimulatedHandle,
) -> None:
    async with running_router(engine) as router:
        whole = request(b"no form at all", headers=[("Origin", PAGE)])
        for sent in (whole, b"rubbish\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + bytes(40_000)):
            async with client(router.port) as one:
                one.send(sent)
                head, _ = await one.answer()
                assert b"\r\naccess-control-allow-origin: *\r\n" in head


async def test_when_to_try_again_can_be_read(engine: SimulatedHandle) -> None:
    settings = {"api_key": "k", "key_audio_s_per_minute": 1}
    key = {"authorization": "Bearer k", "origin": PAGE}
    async with running_router(engine, **settings) as router:
        await router.upload(**key)
        limited = await router.upload(**key)
        router.router.service.is_refusing = True
        stopping = await router.upload(**key)
        for answer, status in ((limited, 429), (stopping, 503)):
            assert (answer.status_code, allowed(answer)) == (status, "*")
            assert answer.headers["retry-after"]
            assert "Retry-After" in answer.headers["access-control-expose-headers"]


async def test_listed_origins_are_named_one_at_a_time(engine: SimulatedHandle) -> None:
    listed = f"{PAGE.upper()}:443,http://localhost:3000"
    async with running_router(engine, cors_origins=listed) as router:
        for origin, said in (
            (PAGE, PAGE),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://localhost:3001", None),
            ("null", None),
        ):
            for answer in (
                await router.upload(origin=origin),
                await router.client.get("/health", headers={"origin": origin}),
            ):
                assert allowed(answer) == said
                assert answer.headers["vary"] == "Origin"
        assert (await router.client.get("/health")).headers["vary"] == "Origin"
        assert (await router.client.options("/health", headers=ASKS)).status_code == 204


async def test_an_empty_list_leaves_pages_out(engine: SimulatedHandle) -> None:
    async with running_router(engine, cors_origins="") as router:
        assert (await router.client.options(TRANSCRIPTIONS, headers=ASKS)).status_code == 405
        assert (await router.client.options("/health", headers=ASKS)).status_code == 405
        for answer in (
            await router.upload(origin=PAGE),
            await router.client.get("/health", headers={"origin": PAGE}),
        ):
            assert answer.status_code == 200
            assert allowed(answer) is None
            assert "vary" not in answer.headers


# --- a browser

HTML = """<!doctype html><title>page</title><script>
async function post(base, key, stream) {
    const form = new FormData();
    form.append("model", "%s");
    form.append("stream", stream ? "true" : "false");
    form.append("file", new Blob([new Uint8Array(%s)], {type: "audio/wav"}), "a.wav");
    const headers = {"Authorization": "Bearer " + key, "X-Request-Id": "from-a-page"};
    const answer = await fetch(base + "/v1/audio/transcriptions",
                               {method: "POST", body: form, headers});
    const reader = answer.body.getReader(), pieces = [];
    for (let part = await reader.read(); !part.done; part = await reader.read())
        pieces.push(new TextDecoder().decode(part.value));
    const read = (name) => answer.headers.get(name);
    return {status: answer.status, pieces: pieces.length, text: pieces.join(""),
            id: read("X-Request-Id"), engine: read("X-Engine-Id")};
}
async function run(name, work) {
    try { window[name] = JSON.stringify(await work()); }
    catch (error) { window[name] = JSON.stringify({error: String(error)}); }
}
</script>"""


class Pages(http.server.BaseHTTPRequestHandler):
    """Serves one page."""

    def do_GET(self) -> None:
        page = HTML % (MODEL, json.dumps(list(silence(1.0))))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(page.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def page_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.timeout(240)
def test_a_page_of_another_origin_posts_a_form_and_reads_a_stream(
    tmp_path: Path, page_url: str
) -> None:
    with engines_beside(1, time_scale=5) as engines:
        arguments = ["--static-backends", engines.urls, "--host", "127.0.0.1", "--port", "0"]
        arguments += ["--api-key", "k3y", "--cors-origins", page_url]
        with router_process(tmp_path / "log", arguments) as process, chromium() as page:
            url = process.wait_until_ready()
            page.open(page_url)
            page.until("typeof run === 'function'")

            def ran(work: str) -> dict[str, object]:
                page.evaluate(f"delete window.result, run('result', () => {work}), 0")
                found: dict[str, object] = json.loads(page.until("window.result"))
                return found

            streamed = ran(f"post('{url}', 'k3y', true)")
            assert streamed["status"] == 200
            assert '"transcript.text.done"' in str(streamed["text"])
            assert int(str(streamed["pieces"])) > 1
            assert streamed["id"] == "from-a-page"
            assert streamed["engine"] == engines.handles[0].url
            whole = ran(f"post('{url}', 'k3y', false)")
            assert json.loads(str(whole["text"]))["text"]
            refused = ran(f"post('{url}', 'wrong', false)")
            assert refused["status"] == 401
            assert "invalid_api_key" in str(refused["text"])
            drain = f"fetch('{url}/engines/x/drain', {{method: 'POST', headers: {{'X-A': 'b'}}}})"
            assert "Failed to fetch" in str(ran(drain)["error"])
