import json

import pytest

from vllm_router import errors
from vllm_router.errors import QueueIsFull, RouterError, error_body
from vllm_router.formats.engine_error import EngineRefused


def all_kinds() -> list[type[RouterError]]:
    found, todo = [], [RouterError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return [kind for kind in found if kind is not EngineRefused]


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
    # A subclass that declares none of its own is the same error to clients.
    codes = [kind.code for kind in all_kinds() if "code" in vars(kind)]
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


def test_half_a_surrogate_pair_is_no_fault_of_ours() -> None:
    assert json.loads(error_body("\ud800", "t", None, None))["error"]["message"] == "?"


def test_what_an_engine_said_in_openais_shape_is_shown_as_it_is() -> None:
    said = b'{"error":{"message":"too loud","type":"Loud","param":"file","code":418,"more":1}}'
    error = EngineRefused(418, said)
    assert (error.status, error.body(), error.is_verbatim) == (418, said, True)
    assert (error.message, error.error_type, error.param) == ("too loud", "Loud", "file")


def test_what_it_said_otherwise_is_put_into_that_shape() -> None:
    error = EngineRefused(418, b'{"error": "too loud"}')
    assert json.loads(error.body())["error"]["message"] == error.message == "too loud"
    assert not error.is_verbatim


@pytest.mark.parametrize("status", [101, 200, 302, 401, 403, 407, 600, 999])
def test_a_status_that_is_not_for_clients_is_a_502(status: int) -> None:
    error = EngineRefused(status, b'{"error": "inside"}')
    assert error.status == 502
    assert b"inside" not in error.body()
