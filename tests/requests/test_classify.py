import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.requests.dispatching import answer

from vllm_router.requests.classify import asked_rest_s, classify
from vllm_router.scheduling.work import OutcomeKind

JSON = [(b"content-type", b"application/json")]
TEXT = [(b"content-type", b"text/plain; charset=utf-8")]
HTML = [(b"content-type", b"text/html")]
EVENTS = [(b"content-type", b"text/event-stream")]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(status, OutcomeKind.DENIED) for status in (301, 302, 307, 308, 401, 403, 407)],
        *[(status, OutcomeKind.UNDECIDED) for status in (204, 400, 404, 405, 413, 415, 422, 500)],
        *[(status, OutcomeKind.BAD_STATUS) for status in (408, 421, 501, 502, 503, 504, 507, 600)],
        (429, OutcomeKind.BUSY),
    ],
)
def test_the_status_says_what_kind_of_answer_it_is(status: int, kind: OutcomeKind) -> None:
    found, words = classify(answer(status))
    assert found is kind
    assert str(status) in words


def test_unavailable_with_a_time_is_a_wish_to_rest() -> None:
    later = answer(503, headers=[(b"retry-after", b"3")])
    assert classify(later)[0] is OutcomeKind.BUSY
    assert asked_rest_s(later) == 3.0


@pytest.mark.parametrize("value", [b"", b"soon", b"-1", b"1e9", b"9" * 40, b"Wed, 21 Oct 2026"])
def test_a_time_that_is_no_number_of_seconds_is_not_known(value: bytes) -> None:
    assert asked_rest_s(answer(429, headers=[(b"retry-after", value)])) is None


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (JSON, b'{"text": "words"}'),
        (JSON, b' {"segments": []} \n'),
        (TEXT, b"words"),
        (EVENTS, None),
        (JSON, None),
    ],
)
def test_what_may_hold_words_is_an_answer(
    headers: list[tuple[bytes, bytes]], body: bytes | None
) -> None:
    assert classify(answer(200, body, headers)) == (OutcomeKind.OK, "")


@pytest.mark.parametrize(
    ("headers", "body", "kind"),
    [
        (HTML, b"<html>", OutcomeKind.RESET),
        (HTML, None, OutcomeKind.RESET),
        (JSON, b"", OutcomeKind.RESET),
        (JSON, b'{"text": "wor', OutcomeKind.RESET),
        ([], b"", OutcomeKind.RESET),
        # Of silence it may be all there is to say, and other servers have other shapes.
        (TEXT, b"", OutcomeKind.UNDECIDED),
        (JSON, b'{"detail": "warming up"}', OutcomeKind.UNDECIDED),
    ],
)
def test_a_200_without_words_is_no_answer(
    headers: list[tuple[bytes, bytes]], body: bytes | None, kind: OutcomeKind
) -> None:
    found, words = classify(answer(200, body, headers))
    assert found is kind
    assert words


@given(st.integers(100, 999), st.none() | st.binary(max_size=40), st.sampled_from([JSON, TEXT, []]))
def test_whatever_is_no_answer_has_a_reason(
    status: int, body: bytes | None, headers: list[tuple[bytes, bytes]]
) -> None:
    kind, words = classify(answer(status, body, headers))
    assert (kind is OutcomeKind.OK) == (not words)
    assert status == 200 or kind is not OutcomeKind.OK
