"""The routes beside the audio, the API key and the shape of errors."""

import pytest
from tests.local.models import BrokenModel, QuickModel
from tests.local.serving import TRANSCRIPTIONS, serving

from vllm_router.audio.wav import silence


async def test_the_model_is_listed_under_its_served_name() -> None:
    async with serving(QuickModel()) as engine:
        body = (await engine.client.get("/v1/models")).json()
        assert [each["id"] for each in body["data"]] == ["openai/whisper-small"]
        assert (await engine.client.get("/version")).json() == {"version": "0.32.0"}


async def test_only_v1_routes_require_the_key() -> None:
    async with serving(QuickModel(), api_key="secret") as engine:
        for path in ("/health", "/metrics", "/version", "/load"):
            assert (await engine.client.get(path)).status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            answer = await engine.client.get("/v1/models", headers=headers)
            assert answer.status_code == 401
            assert answer.json() == {"error": "Unauthorized"}
        engine.client.headers["Authorization"] = "Bearer secret"
        assert (await engine.client.get("/v1/models")).status_code == 200
        assert (await engine.post(silence(1.0))).status_code == 200


async def test_unknown_routes_and_methods_are_refused_in_vllms_shape() -> None:
    async with serving(QuickModel()) as engine:
        answer = await engine.client.get("/nothing")
        assert answer.status_code == 404
        assert answer.json() == {
            "error": {"message": "Not Found", "type": "Not Found", "param": None, "code": 404}
        }
        for method, path in (("GET", TRANSCRIPTIONS), ("POST", "/health")):
            answer = await engine.client.request(method, path)
            assert answer.status_code == 405
            assert answer.json()["error"]["code"] == 405


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("", b""),
        ("multipart/form-data; boundary=x", b"not a form"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"y" * 20_000),
        ("multipart/form-data", b"no boundary"),
    ],
)
async def test_a_body_that_is_not_a_form_is_400(content_type: str, body: bytes) -> None:
    async with serving(QuickModel()) as engine:
        headers = {"Content-Type": content_type}
        answer = await engine.client.post(TRANSCRIPTIONS, content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == 400


async def test_a_model_that_fails_is_500_in_vllms_shape() -> None:
    async with serving(BrokenModel()) as engine:
        answer = await engine.post(silence(1.0), language="de")
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "InternalServerError"
        assert (await engine.client.get("/load")).json() == {"server_load": 0}
