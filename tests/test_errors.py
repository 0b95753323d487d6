import json

import pytest

from vllm_router import errors
from vllm_router.errors import EngineSaid, QueueIsFull, RouterError, error_body


def all_kinds() -> list[type[RouterError]]:
    found, todo = [], [RouterError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return [kind for kind in found if kind is not EngineSaid]


@pytest.mark.parametrize("kind", all_kinds())
def test_every_error_has_openais_shape(kind: type[RouterError]) -> None:
    body = json.loads(kind("What to do.", param="file").body())
    assert body == {
        "error": {
            "message": "What to do.",
            "type": kind.error_type,
            "param": "file",
            "code": kind.code,
        }
    }
    assert 400 <= kind.status < 600


def test_no_two_errors_share_a_code() -> None:
    codes = [kind.code for kind in all_kinds()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    ("seconds", "header"), [(0.0, b"1"), (0.2, b"1"), (5.0, b"5"), (5.1, b"6")]
)
def test_retry_after_is_whole_seconds_and_never_too_early(seconds: float, header: bytes) -> None:
    assert QueueIsFull("wait", retry_after_s=seconds).headers() == [(b"retry-after", header)]


def test_no_retry_after_where_trying_again_is_of_no_use() -> None:
    assert RouterError("no").headers() == []


def test_words_of_any_language_survive() -> None:
    body = error_body("ungültig: 日本\n\x00", "t", None, None)
    assert json.loads(body)["error"]["message"] == "ungültig: 日本\n\x00"


def test_what_an_engine_said_is_shown_as_it_is() -> None:
    error = EngineSaid(418, b'{"error": "as it is"}')
    assert (error.status, error.body()) == (418, b'{"error": "as it is"}')
    assert str(EngineSaid(400, b"\xff" * 5000)) == "\ufffd" * 1000
