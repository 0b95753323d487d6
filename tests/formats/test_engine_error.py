"""Whatever an engine says in refusing, a client reads one shape, and nothing of the inside."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.formats.engine_error import (
    MAX_MESSAGE_CHARS,
    MAX_SENTENCE_CHARS,
    is_for_clients,
    lacks_model,
    plain_sentence,
    read_engine_error,
)

GENERAL = "The engine refused the upload with status 422."


def told(answer: bytes, status: int = 422) -> dict[str, object]:
    """Return the error that a client reads, checked for its shape."""
    said = read_engine_error(status, answer)
    error: dict[str, object] = json.loads(said.body)["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert error["message"] == said.message
    assert said.message
    return error


def test_openais_shape_passes_as_the_bytes_it_was() -> None:
    answer = b'{ "error": {"message": "m", "type": "t", "param": null, "code": 400, "x": 1}}'
    said = read_engine_error(400, answer)
    assert (said.body, said.is_verbatim, said.error_type) == (answer, True, "t")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b'{"error": {"message": "too loud"}}', "too loud"),
        (b'{"object": "error", "message": "see http://docs", "code": 400}', "see http://docs"),
        (b'{"error": "Unauthorized"}', "Unauthorized"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"message": "no such route"}', "no such route"),
        (b'{"title": "Too loud", "status": 422}', "Too loud"),
        (b"Request Entity\n  Too Large\n", "Request Entity Too Large"),
        (
            b'{"detail": [{"loc": ["body", "file"], "msg": "Field required"}, {"msg": "m"}, 3]}',
            "file: Field required; m;",
        ),
        ("zu groß: 日本".encode(), "zu groß: 日本"),
    ],
)
def test_a_plain_sentence_is_kept(answer: bytes, message: str) -> None:
    assert told(answer)["message"] == message


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"   ",
        b"<html><body><h1>413 Request Entity Too Large</h1></body></html>",
        b"<!DOCTYPE html>",
        b"see http://10.0.0.7:8000/v1/audio",
        b"upstream 10.0.0.7 is away",
        b"upstream [fd00::7]:8000 is away",
        b"no route to whisper-0.engines.svc.cluster.local",
        b"connect to localhost failed",
        b"Traceback (most recent call last): File",
        b'{"error": "see https://inside/"}',
        b'{"detail": "see https://inside/"}',
        b'{"message": "see https://inside/"}',
        b'{"error": {"message": ""}}',
        b'{"error": {"message": 3}}',
        b'{"error": null}',
        b"[1, 2]",
        b"{broken",
        b"\xff\xfe",
        b"a\x00b",
        b"x" * (MAX_SENTENCE_CHARS + 1),
        b"x" * 1_000_000,
        b"[" * 100_000,
    ],
)
def test_anything_else_is_one_general_sentence(answer: bytes) -> None:
    assert told(answer)["message"] == GENERAL


def test_what_the_engine_names_is_kept_and_the_rest_is_usual() -> None:
    error = told(b'{"error": {"message": "m", "param": "file", "code": 7}}', 429)
    assert (error["type"], error["param"], error["code"]) == ("rate_limit_error", "file", 7)
    assert told(b"no", 500)["type"] == "server_error"
    assert told(b"", 500)["message"] == "The engine failed on the upload with status 500."


@pytest.mark.parametrize(
    "shape", ['{"error": {"message": %s}}', '{"object": "error", "message": %s}']
)
def test_a_message_in_nearly_the_right_shape_is_bounded_and_printable(shape: str) -> None:
    long = told((shape % json.dumps("too loud " * 1000)).encode())["message"]
    assert len(str(long)) == MAX_MESSAGE_CHARS
    for unfit in ("Traceback (most recent call last):\n  File", "a\x1b[2Jb"):
        assert told((shape % json.dumps(unfit)).encode())["message"] == GENERAL


def test_names_that_are_no_names_are_left_out() -> None:
    names = {"message": "m", "type": "t" * 1000, "param": "\x00", "code": "c" * 1000}
    error = told(json.dumps({"object": "error", **names}).encode())
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        None,
        "engine_refused",
    )


@pytest.mark.parametrize(
    ("answer", "lacks"),
    [
        (b'{"error": {"message": "The model `m` does not exist.", "param": "model"}}', True),
        (b'{"error": {"message": "no", "code": "model_not_found"}}', True),
        (b'{"object": "error", "message": "The model `m` does not exist."}', True),
        (b'{"detail": "Not Found"}', False),
        (b"<html>model</html>", False),
        (b"", False),
    ],
)
def test_an_engine_says_that_it_lacks_a_model(answer: bytes, *, lacks: bool) -> None:
    assert lacks_model(answer) == lacks


def test_only_refusals_of_the_upload_are_for_clients() -> None:
    shown = [status for status in range(100, 700) if is_for_clients(status)]
    assert shown == [s for s in range(400, 600) if s not in (401, 403, 407)]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                ["error", "message", "detail", "title", "type", "param", "code", "loc", "msg"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=400) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_answer_gives_openais_shape(answer: bytes) -> None:
    told(answer)


@given(st.text())
def test_a_plain_sentence_is_one_short_line(text: str) -> None:
    words = plain_sentence(text)
    if words is not None:
        assert words == " ".join(text.split())
        assert 0 < len(words) <= MAX_SENTENCE_CHARS
        assert words.isprintable()
