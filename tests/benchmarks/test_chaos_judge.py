"""The chaos finds what it looks for: every broken promise is told from a kept one."""

import json
import random
from dataclasses import replace

import pytest
from benchmarks.chaos.client import Reply
from benchmarks.chaos.judge import Interval, Kind, judge
from benchmarks.chaos.uploads import Request, Requests

MADE = Requests(random.Random(1), long_share=0.0)


def asked(response_format: str = "json", stream: str = "") -> Request:
    return next(
        one
        for one in MADE
        if one.expected and (one.response_format, one.stream) == (response_format, stream)
    )


def whole(body: str, status: int = 200) -> Reply:
    return Reply(1.0, 2.0, status, {}, body.encode(), is_whole=True)


def words(request: Request) -> str:
    assert request.expected is not None
    return " ".join(request.expected)


def events(*values: object) -> str:
    return "".join(f"data: {json.dumps(value)}\n\n" for value in values)


def delta(text: str) -> dict[str, str]:
    return {"type": "transcript.text.delta", "delta": text}


REFUSAL = json.dumps({"error": {"message": "No.", "type": "server_error", "code": "no_engine"}})


def test_the_right_words_are_right_in_every_format():
    one = asked()
    assert judge(one, whole(json.dumps({"text": words(one)})), ()).kind is Kind.RIGHT
    one = asked("text")
    assert judge(one, whole(words(one) + "\n"), ()).kind is Kind.RIGHT
    one = asked("srt")
    cue = f"1\n00:00:00,000 --> 00:00:01,000\n{words(one)}\n\n"
    assert judge(one, whole(cue), ()).kind is Kind.RIGHT
    one = asked(stream="openai")
    done = {"type": "transcript.text.done", "text": words(one)}
    assert judge(one, whole(events(delta(words(one)), done)), ()).kind is Kind.RIGHT


def test_another_uploads_words_are_not():
    one, other = asked(), asked()
    while len(words(other).split()) != len(words(one).split()):
        other = asked()
    verdict = judge(one, whole(json.dumps({"text": words(other)})), ())
    assert verdict.kind is Kind.BROKEN
    assert verdict.why == "another upload's words"


@pytest.mark.parametrize("times", [0, 2])
def test_words_that_are_missing_or_doubled_are_not(times: int):
    one = asked()
    text = json.dumps({"text": " ".join([words(one)] * times)})
    assert judge(one, whole(text), ()).kind is Kind.BROKEN


def test_a_stream_must_have_its_last_event():
    one = asked(stream="openai")
    assert judge(one, whole(events(delta(words(one)))), ()).kind is Kind.BROKEN


def test_an_error_event_is_honest_if_what_came_before_it_was_right():
    one = asked(stream="openai")
    assert one.expected is not None
    error = {"error": {"message": "It broke off.", "code": "engine_failed"}}
    begun = " ".join(one.expected[:3])
    assert judge(one, whole(events(delta(begun), error)), ()).kind is Kind.REFUSED
    assert judge(one, whole(events(delta("other words"), error)), ()).kind is Kind.BROKEN
    after = events(delta(begun), error, delta("more"))
    assert judge(one, whole(after), ()).kind is Kind.BROKEN


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_trouble_may_be_refused_in_openais_shape_only(status: int):
    assert judge(asked(), whole(REFUSAL, status), ()).kind is Kind.REFUSED
    for said in ("", "<html>", "{}", '{"error": "no"}'):
        assert judge(asked(), whole(said, status), ()).kind is Kind.BROKEN


def test_a_good_request_may_not_be_called_bad():
    assert judge(asked(), whole(REFUSAL, 400), ()).kind is Kind.BROKEN


def test_a_bad_request_must_be_refused_and_for_its_own_reason():
    bad = replace(asked(), expected=None, refusal=404)
    assert judge(bad, whole(REFUSAL, 404), ()).kind is Kind.REFUSED
    assert judge(bad, whole(REFUSAL, 400), ()).kind is Kind.BROKEN
    assert judge(bad, whole('{"text": ""}'), ()).kind is Kind.BROKEN


def test_a_connection_may_only_break_when_its_router_is_killed():
    cut = Reply(1.0, 2.0, 200, {}, b'{"te')
    lost = Reply(1.0, 2.0)
    for reply in (cut, lost):
        assert judge(asked(), reply, ()).kind is Kind.BROKEN
        assert judge(asked(), reply, [Interval(2.5, 3.0)]).kind is Kind.BROKEN
        assert judge(asked(), reply, [Interval(1.9, 3.0)]).kind is Kind.KILLED


def test_two_answers_or_none_in_time_are_violations():
    doubled = replace(whole(REFUSAL, 503), is_doubled=True)
    assert judge(asked(), doubled, ()).kind is Kind.BROKEN
    assert judge(asked(), Reply(1.0, 99.0, has_hung=True), ()).kind is Kind.BROKEN


def test_no_two_uploads_are_alike():
    bodies = [one.body for one, _ in zip(MADE, range(200), strict=False)]
    assert len(set(bodies)) == len(bodies)
