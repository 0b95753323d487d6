"""vLLM's routes, asked over a socket."""

import httpx
import pytest
from tests.fake_engine.serving import serve_simulated

from vllm_router.audio.wav import silence

PATH = "/v1/audio/transcriptions"
UPLOAD = {"file": ("a.wav", silence(1.0), "audio/wav")}


async def test_the_key_is_wanted_on_v1_alone() -> None:
    async with (
        serve_simulated(time_scale=1000, api_key="secret") as engine,
        httpx.AsyncClient(base_url=engine.url) as client,
    ):
        for path in ("/health", "/metrics", "/version", "/load"):
            assert (await client.get(path)).status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            answer = await client.get("/v1/models", headers=headers)
            assert answer.status_code == 401
            assert answer.json() == {"error": "Unauthorized"}
        good = {"Authorization": "Bearer secret"}
        assert (await client.get("/v1/models", headers=good)).status_code == 200
        answer = await client.post(PATH, files=UPLOAD, headers=good)
        assert answer.status_code == 200


async def test_other_routes_and_methods_are_refused_in_vllms_shape() -> None:
    async with serve_simulated() as engine, httpx.AsyncClient(base_url=engine.url) as client:
        answer = await client.get("/nothing")
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == "Not Found"
        for method, path in (("GET", PATH), ("POST", "/health")):
            answer = await client.request(method, path)
            assert answer.status_code == 405
            assert answer.json()["error"]["code"] == 405
        assert (await client.get("/version")).json() == {"version": "0.32.0"}


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("application/json", b"{}", "Field required"),
        ("", b"", "Field required"),
        ("multipart/form-data; boundary=x", b"no form", "error parsing the body"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"y" * 20_000, "error parsing the body"),
    ],
)
async def test_bodies_that_are_no_form_are_400(content_type: str, body: bytes, words: str) -> None:
    async with serve_simulated() as engine, httpx.AsyncClient(base_url=engine.url) as client:
        answer = await client.post(PATH, content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


async def test_the_request_id_names_the_stream() -> None:
    async with (
        serve_simulated(time_scale=1000) as engine,
        httpx.AsyncClient(base_url=engine.url) as client,
    ):
        data = {
            "stream": "true",
            "stream_include_usage": "true",
            "stream_continuous_usage_stats": "true",
        }
        answer = await client.post(PATH, files=UPLOAD, data=data, headers={"X-Request-Id": "mine"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert '"id":"transcribe-mine"' in answer.text
    events = [line for line in answer.text.split("\n") if line and "[DONE]" not in line]
    assert all('"usage":' in line for line in events)
