"""Refusals as engines write them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.upstream.refusal import RefusalKind, read_refusal


def vllm(message: str, param: str | None = None) -> bytes:
    error = {"message": message, "type": "BadRequestError", "param": param, "code": 400}
    return json.dumps({"error": error}).encode()


def detail(*loc: str, msg: str, value: Any = "x") -> bytes:
    """Return what FastAPI says of a field."""
    found = {"type": "t", "loc": ["body", *loc], "msg": msg, "input": value}
    return json.dumps({"detail": [found]}).encode()


LANGUAGES = "['af', 'ar', 'de', 'en']"
VLLM = [
    (400, vllm("Currently do not support verbose_json for mistralai/Voxtral-Mini-3B-2507"),
     RefusalKind.FORMAT, None),
    (400, vllm("Currently only support response_format `text` or `json`"),
     RefusalKind.FORMAT, None),
    (422, detail("response_format", msg="Input should be 'json' or 'text'", value="verbose_json"),
     RefusalKind.FORMAT, None),
    (400, vllm("Maximum file size exceeded (parameter=audio_filesize_mb, value=26.25)"),
     RefusalKind.TOO_LARGE, None),
    (400, vllm("Maximum file size exceeded.", "audio_filesize_mb"), RefusalKind.TOO_LARGE, None),
    (413, vllm("Maximum content size limit (26214400) exceeded (26226042 bytes read)"),
     RefusalKind.TOO_LARGE, 26_214_400),
    (400, vllm("File is too large: the maximum is 25 MB"), RefusalKind.TOO_LARGE, 25 * 2**20),
    (413, b"<html><title>413 Request Entity Too Large</title></html>", RefusalKind.TOO_LARGE, None),
    (413, b"", RefusalKind.TOO_LARGE, None),
    (400, vllm("Audio exceeds maximum allowed duration of 600s (file contains 3600.0s at 16000Hz). "
               "Set VLLM_MAX_AUDIO_DECODE_DURATION_S to increase this limit."),
     RefusalKind.TOO_LONG, 600),
    (400, vllm("Maximum clip duration (30s) exceeded."), RefusalKind.TOO_LONG, 30),
    (400, vllm("audio duration 1800.5 seconds is longer than 1400 seconds which is the maximum for "
               "this model"), RefusalKind.TOO_LONG, 1400),
    (413, vllm("The audio is too long."), RefusalKind.TOO_LONG, None),
    (400, vllm("Audio would allocate 300 MiB of PCM (39321600 frames x 2 channels x 4B), exceeding "
               "the 256 MiB limit. Set VLLM_MAX_AUDIO_DECODE_BYTES to increase this limit."),
     RefusalKind.TOO_MUCH, None),
    (400, vllm("Audio decode exceeded 256 MiB memory limit (256 MiB decoded so far). Set "
               "VLLM_MAX_AUDIO_DECODE_BYTES to increase this limit."), RefusalKind.TOO_MUCH, None),
    (400, vllm("This model's maximum context length is 448 tokens. However, your request has 900."),
     RefusalKind.TOO_MUCH, None),
    (422, detail("language", msg="Extra inputs are not permitted", value="de"),
     RefusalKind.LANGUAGE, None),
    (400, vllm("The parameter 'language' is not supported by this model", "language"),
     RefusalKind.LANGUAGE, None),
    (400, vllm("Qwen3-ASR does not support language"), RefusalKind.LANGUAGE, None),
    (400, vllm("Unexpected form field: language"), RefusalKind.LANGUAGE, None),
    (415, b"unknown field language", RefusalKind.LANGUAGE, None),
    (500, vllm("tuple index out of range"), RefusalKind.NO_WORDS, None),
    # What is about the upload.
    (400, vllm(f"Unsupported language: 'de'.  Must be one of {LANGUAGES}."),
     RefusalKind.OTHER, None),
    (400, vllm("Language 'de' is not supported"), RefusalKind.OTHER, None),
    (400, vllm("Language de is not supported by this model"), RefusalKind.OTHER, None),
    (400, vllm("no such language"), RefusalKind.OTHER, None),
    (400, vllm("`to_language` is not supported"), RefusalKind.OTHER, None),
    (422, detail("temperature", msg="Extra inputs are not permitted", value="language"),
     RefusalKind.OTHER, None),
    (400, vllm("Invalid or corrupted audio data. Ensure the input is a valid audio or video file "
               "(e.g. a complete WAV, MP3, or MP4)."), RefusalKind.OTHER, None),
    (400, vllm("Invalid or unsupported audio file."), RefusalKind.OTHER, None),
    (400, vllm("Stream options can only be defined when `stream=True`."), RefusalKind.OTHER, None),
    (500, vllm("list index out of range"), RefusalKind.OTHER, None),
    (404, vllm("The model `verbose_json` does not exist."), RefusalKind.OTHER, None),
    (503, vllm("Maximum file size exceeded"), RefusalKind.OTHER, None),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind", "limit"), VLLM)
def test_what_engines_say_is_understood(
    status: int, body: bytes, kind: RefusalKind, limit: float | None
) -> None:
    found = read_refusal(status, body, asked_format="verbose_json", language="de")
    assert (found.kind, found.limit) == (kind, limit)


def test_what_was_not_sent_is_not_the_reason() -> None:
    body = vllm("Qwen3-ASR does not support language")
    assert read_refusal(400, body).kind is RefusalKind.OTHER
    body = vllm("Currently do not support verbose_json for m")
    assert read_refusal(400, body).kind is RefusalKind.OTHER


@pytest.mark.parametrize(
    "language", ["verbose_json", "not supported", "xx-field language not permitted", "'", ""]
)
def test_a_client_cannot_have_its_own_words_believed(language: str) -> None:
    said = (
        vllm(f"Unsupported language: '{language}'.  Must be one of {LANGUAGES}."),
        vllm(f"language {language}: not supported"),
        vllm(f"language `{language[:10]}`… is not permitted"),
    )
    for body in said:
        found = read_refusal(400, body, asked_format="verbose_json", language=language)
        assert found.kind is RefusalKind.OTHER


@given(st.integers(100, 999), st.binary(), st.text(max_size=5))
def test_any_answer_is_read(status: int, body: bytes, language: str) -> None:
    read_refusal(status, body, asked_format="verbose_json", language=language)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON), st.integers(0, 10**30))
def test_any_json_is_read_and_limits_are_reasonable(said: dict[str, Any], number: int) -> None:
    read_refusal(400, json.dumps(said).encode(), language="de")
    for words in (f"the maximum duration is {number} s", f"larger than {number} bytes"):
        limit = read_refusal(400, vllm(words)).limit
        assert limit is None or 1 <= limit <= 1e20


def test_nested_json_is_read() -> None:
    read_refusal(400, b'{"a":' + b"[" * 8000 + b"]" * 8000 + b"}")
