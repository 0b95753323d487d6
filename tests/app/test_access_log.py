import io
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.app.access_log import AccessLog
from vllm_router.inbound.exchange import Exchange
from vllm_router.proxy.facts import Task
from vllm_router.proxy.story import Story


def exchange(**more: Any) -> Exchange:
    values = {
        "first_byte_at": 2.5,
        "started_at": 1.0,
        "received_bytes": 96_000,
        "client": "10.0.0.9",
        **more,
    }
    return cast(Exchange, SimpleNamespace(**values))


def story(**more: Any) -> Story:
    values = {
        "model": "openai/whisper-small",
        "audio_s": 3.0005,
        "engines": ["http://a", "http://b"],
        "queue_s": 0.25,
        "holder": "ann",
        **more,
    }
    return Story("id-1", Task.TRANSCRIBE, **values)


def written(kind: str, one: Exchange, what: Story, status: int = 200) -> str:
    stream = io.StringIO()
    AccessLog(kind, stream, lambda: 86400.5).write(one, what, status, 2.0)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text


def test_json_has_every_field() -> None:
    line = json.loads(written("json", exchange(), story(pieces=4)))
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
    bare = Story("id-2", Task.TRANSLATE, error="bad_request")
    line = json.loads(written("json", exchange(first_byte_at=None), bare, 499))
    assert line["status"] == 499
    assert line["error"] == "bad_request"
    assert not line.get("engines")
    assert line.get("model") is None
    assert line.get("audio_s") is None
    assert line.get("first_byte_s") is None


@pytest.mark.parametrize("value", ['a "quoted" one', "back\\slash", "new\nline", "Köln\x07"])
def test_what_clients_choose_cannot_break_a_line(value: str) -> None:
    line = json.loads(written("json", exchange(), story(model=value, holder=value)))
    assert (line["model"], line["key"]) == (value, value)


def test_text_is_for_people_and_leaves_out_what_is_not_known() -> None:
    text = written("text", exchange(), story())
    assert " INFO    request " in text
    for part in (
        *("request_id=id-1", "route=transcriptions", "status=200", "engines=http://a,http://b"),
        *("key=ann", "client=10.0.0.9", "model=openai/whisper-small"),
    ):
        assert f" {part}" in text
    bare = written("text", exchange(first_byte_at=None), Story("id-2", Task.TRANSLATE))
    for name in ("model=", "audio_s=", "engines=", "error=", "pieces=", "key=", "first_byte_s="):
        assert name not in bare


@given(st.floats(0, 1e9))
def test_seconds_are_written_to_the_fourth_place(seconds: float) -> None:
    text = written("text", exchange(), story(queue_s=seconds))
    shown = text.split(" queue_s=")[1].split(" ")[0]
    assert len(shown.partition(".")[2]) == 4
    assert float(shown) == pytest.approx(seconds, abs=0.000_051, rel=1e-15)


def test_a_log_that_cannot_be_written_fails_no_request() -> None:
    stream = io.StringIO()
    stream.close()
    AccessLog("text", stream).write(exchange(), story(), 200, 1.0)


def test_the_second_is_told_anew_when_it_changes() -> None:
    now = [0.25]
    for kind in ("text", "json"):
        stream = io.StringIO()
        log = AccessLog(kind, stream, lambda: now[0])
        for moment in (0.25, 0.75, 61.0):
            now[0] = moment
            log.write(exchange(), story(), 200, 1.0)
        seconds = [line[:30] for line in stream.getvalue().splitlines()]
        assert seconds[0] != seconds[2]
