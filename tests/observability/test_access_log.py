import io
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.observability.access_log import AccessLog
from vllm_router.observability.request_record import RequestRecord, Task
from vllm_router.server.exchange import Exchange


def exchange(**more: Any) -> Exchange:
    values = {
        "first_byte_at": 2.5,
        "started_at": 1.0,
        "received_bytes": 96_000,
        "client": "10.0.0.9",
        **more,
    }
    return cast(Exchange, SimpleNamespace(**values))


def record(**more: Any) -> RequestRecord:
    values = {
        "model": "openai/whisper-small",
        "audio_s": 3.0005,
        "engines": ["http://a", "http://b"],
        "queue_s": 0.25,
        "holder": "ann",
        **more,
    }
    return RequestRecord("id-1", Task.TRANSCRIBE, **values)


class Timer:
    """In the place of the loop's: calls when a test says so."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        assert 0 < seconds <= 0.1
        self.due.append(call)

    def fire(self) -> None:
        due, self.due = self.due, []
        for call in due:
            call()


def written(kind: str, one: Exchange, what: RequestRecord, status: int = 200) -> str:
    stream = io.StringIO()
    log = AccessLog(kind, stream, lambda: 86400.5, Timer().later)
    log.write(one, what, status, 2.0)
    log.flush()
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text


def test_json_has_every_field() -> None:
    line = json.loads(written("json", exchange(), record(pieces=4)))
    assert line["time"] == "1970-01-02T00:00:00.500Z"
    assert (line["level"], line["logger"], line["message"]) == (
        *("info", "vllm_router.access", "request"),
    )
    assert line["request_id"] == "id-1"
    assert line["route"] == "transcriptions"
    assert line["status"] == 200
    assert line["model"] == "openai/whisper-small"
    assert line["audio_s"] == pytest.approx(3.0, abs=0.001)
    assert line["bytes"] == 96_000
    assert line["engines"] == ["http://a", "http://b"]
    assert line["queue_s"] == 0.25
    assert line["first_byte_s"] == 1.5
    assert line["total_s"] == 2.0
    assert line["pieces"] == 4
    assert line["key"] == "ann"
    assert line["client"] == "10.0.0.9"


def test_json_of_a_request_of_which_little_is_known() -> None:
    bare = RequestRecord("id-2", Task.TRANSLATE, error="bad_request")
    line = json.loads(written("json", exchange(first_byte_at=None), bare, 499))
    assert line["status"] == 499
    assert line["error"] == "bad_request"
    assert not line.get("engines")
    assert line.get("model") is None
    assert line.get("audio_s") is None
    assert line.get("first_byte_s") is None


@pytest.mark.parametrize("value", ['a "quoted" one', "back\\slash", "new\nline", "Köln\x07"])
def test_what_clients_choose_cannot_break_a_line(value: str) -> None:
    line = json.loads(written("json", exchange(), record(model=value, holder=value)))
    assert (line["model"], line["key"]) == (value, value)


def test_text_is_for_people_and_leaves_out_what_is_not_known() -> None:
    text = written("text", exchange(), record())
    assert " INFO    request " in text
    for part in (
        *("request_id=id-1", "route=transcriptions", "status=200", "engines=http://a,http://b"),
        *("key=ann", "client=10.0.0.9", "model=openai/whisper-small"),
    ):
        assert f" {part}" in text
    bare = written("text", exchange(first_byte_at=None), RequestRecord("id-2", Task.TRANSLATE))
    for name in ("model=", "audio_s=", "engines=", "error=", "pieces=", "key=", "first_byte_s="):
        assert name not in bare


@given(st.floats(0, 1e9))
def test_seconds_are_written_to_the_fourth_place(seconds: float) -> None:
    text = written("text", exchange(), record(queue_s=seconds))
    shown = text.split(" queue_s=")[1].split(" ")[0]
    assert len(shown.partition(".")[2]) == 4
    assert float(shown) == pytest.approx(seconds, abs=0.000_051, rel=1e-15)


def test_a_log_that_cannot_be_written_fails_no_request() -> None:
    stream = io.StringIO()
    stream.close()
    timer = Timer()
    lost: list[int] = []
    log = AccessLog("text", stream, later=timer.later, lost=lambda: lost.append(1))
    for turn in range(2):
        log.write(exchange(), record(), 200, 1.0)
        timer.fire()
        log.flush()
        assert len(lost) == turn + 1


class Writes(io.StringIO):
    """Keeps what was written at once apart."""

    def __init__(self) -> None:
        super().__init__()
        self.each: list[str] = []

    def write(self, text: str) -> int:
        self.each.append(text)
        return len(text)


def test_lines_wait_a_moment_for_each_other() -> None:
    stream, timer = Writes(), Timer()
    log = AccessLog("text", stream, later=timer.later)
    for turn in range(3):
        for _ in range(3):
            log.write(exchange(), record(), 200, 1.0)
        assert len(timer.due) == 1
        timer.fire()
        assert len(stream.each) == turn + 1
        assert stream.each[-1].count("\n") == 3
    timer.fire()
    log.flush()
    assert len(stream.each) == 3


@given(st.lists(st.text("abö語", max_size=1500), max_size=20))
def test_what_is_written_at_once_is_whole_lines_that_a_shared_pipe_does_not_tear(
    models: list[str],
) -> None:
    stream, timer = Writes(), Timer()
    log = AccessLog("json", stream, later=timer.later)
    for model in models:
        log.write(exchange(), record(model=model), 200, 1.0)
    timer.fire()
    for text in stream.each:
        assert text.endswith("\n")
        assert len(text.encode()) <= 4096 or text.count("\n") == 1
    lines = [json.loads(line) for line in "".join(stream.each).splitlines()]
    assert [line["model"] or "" for line in lines] == models


def test_the_second_is_told_anew_when_it_changes() -> None:
    now = [0.25]
    for kind in ("text", "json"):
        stream = io.StringIO()
        log = AccessLog(kind, stream, lambda: now[0], Timer().later)
        for moment in (0.25, 0.75, 61.0):
            now[0] = moment
            log.write(exchange(), record(), 200, 1.0)
        log.flush()
        seconds = [line[:30] for line in stream.getvalue().splitlines()]
        assert seconds[0] != seconds[2]


def test_a_model_whose_name_is_half_a_surrogate_pair_is_still_logged() -> None:
    line = written("text", exchange(), record(model="whisper-\ud800", engines=["http://\u00e9"]))
    assert " model=whisper-? " in line
    assert " engines=http://\u00e9 " in line
