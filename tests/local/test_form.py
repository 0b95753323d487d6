"""Requests that vLLM refuses because of their fields."""

from collections.abc import AsyncIterator

import pytest
from tests.local.models import QuickModel
from tests.local.serving import TRANSCRIPTIONS, Engine, serving

from vllm_router.audio.wav import silence


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with serving(QuickModel()) as each:
        yield each


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"model": "nope"}, 404, "model", "`nope` does not exist"),
        ({"response_format": "srt"}, 400, None, "Currently only support"),
        ({"response_format": "vtt"}, 400, None, "Currently only support"),
        ({"response_format": "xml"}, 400, "body.response_format", "Input should be 'json'"),
        ({"stream": "perhaps"}, 400, "body.stream", "valid boolean"),
        ({"temperature": "hot"}, 400, "body.temperature", "valid number"),
        ({"temperature": "-1"}, 400, "body.temperature", "greater than or equal to 0"),
        ({"temperature": "nan"}, 400, "body.temperature", "finite number"),
        ({"language": "xx"}, 400, None, "Unsupported language: 'xx'"),
        ({"stream_include_usage": "true"}, 400, "stream_include_usage", "when `stream=True`"),
        (
            {"stream_continuous_usage_stats": "true"},
            400,
            "stream_continuous_usage_stats",
            "when `stream=True`",
        ),
        ({"response_format": "verbose_json", "stream": "true"}, 400, None, "streaming case"),
    ],
)
async def test_fields_are_refused_as_vllm_refuses_them(
    engine: Engine, fields: dict[str, str], status: int, param: str | None, words: str
) -> None:
    answer = await engine.post(silence(1.0), **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, status, param)
    assert words in error["message"]


@pytest.mark.parametrize("files", [{}, {"file": (None, b"text")}])
async def test_the_file_is_required(engine: Engine, files: dict[str, tuple[None, bytes]]) -> None:
    sent = {**files, "model": (None, b"openai/whisper-small")}
    answer = await engine.client.post(TRANSCRIPTIONS, files=sent)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "body.file"


async def test_unknown_and_empty_fields_change_nothing(engine: Engine) -> None:
    plain = await engine.post(silence(1.0))
    fields = {"of_a_later_release": "x", "model": "", "language": "", "prompt": "", "stream": ""}
    more = {"response_format": "", "temperature": ""}
    assert (await engine.post(silence(1.0), **fields, **more)).json() == plain.json()


async def test_a_file_over_25_mb_is_refused(engine: Engine) -> None:
    answer = await engine.post(bytes(25 * 1024**2 + 1))
    assert answer.status_code == 400
    assert "Maximum file size exceeded" in answer.json()["error"]["message"]
