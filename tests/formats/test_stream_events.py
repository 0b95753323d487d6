import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.formats.sse import DONE, comment, encode
from vllm_router.formats.stream_events import (
    ChunkTranslator,
    StreamState,
    delta_event,
    done_event,
    engine_chunk,
    error_event,
    segment_event,
)


def chunk(delta, finish_reason=None):
    return encode(
        engine_chunk(delta, request_id="1", model="whisper", created=5, finish_reason=finish_reason)
    )


def run(*pieces, audio_s=None, told=""):
    translator = ChunkTranslator(audio_s, told=told)
    return translator, [event for piece in pieces for event in translator.feed(piece)]


def test_an_engines_stream_becomes_deltas_and_a_closing_event():
    translator, events = run(
        chunk(" The"), comment(), chunk(" router."), chunk("", "stop"), DONE, audio_s=2.2
    )
    assert events == [
        delta_event("The"),
        delta_event(" router."),
        done_event("The router.", {"type": "duration", "seconds": 3}),
    ]
    assert translator.state is StreamState.COMPLETE
    assert translator.text == "The router."


def test_bytes_may_be_cut_anywhere():
    wire = chunk(" Grüße") + chunk(" 你好", "stop") + DONE
    _, whole = run(wire)
    _, cut = run(*(bytes([byte]) for byte in wire))
    assert cut == whole
    assert whole[-1]["text"] == "Grüße 你好"


def test_the_engines_inner_pieces_are_kept_apart_where_its_script_has_spaces():
    _, events = run(chunk("one.", "stop"), chunk("Two", None), chunk("three", "stop"), DONE)
    assert events[-1]["text"] == "one. Twothree"
    _, events = run(chunk("一。", "stop"), chunk("二"), DONE)
    assert events[-1]["text"] == "一。二"
    _, events = run(chunk("one", "stop"), chunk(""), chunk(" two"), DONE)
    assert events[-1]["text"] == "one two"


@given(st.lists(st.tuples(st.text(max_size=8), st.booleans()), max_size=8))
def test_joined_deltas_are_the_final_text(chunks):
    _, events = run(*(chunk(text, "stop" if is_end else None) for text, is_end in chunks), DONE)
    *deltas, done = events
    assert "".join(event["delta"] for event in deltas) == done["text"]
    assert all(event["delta"] for event in deltas)


def test_tokens_that_the_engine_counts_are_the_usage():
    counted = {
        "choices": [],
        "usage": {"prompt_tokens": 4, "completion_tokens": 9, "total_tokens": 13},
    }
    _, events = run(chunk("a"), encode(counted), encode({"usage": {"x": 1}}), DONE, audio_s=1)
    assert events[-1]["usage"] == {
        "type": "tokens",
        "input_tokens": 4,
        "output_tokens": 9,
        "total_tokens": 13,
    }


def test_usage_is_absent_when_nothing_is_known():
    _, events = run(DONE)
    assert events == [{"type": "transcript.text.done", "text": ""}]


def test_nothing_follows_the_end():
    translator, events = run(chunk("a"), DONE + chunk("b"), chunk("c"), DONE)
    assert len(events) == 2
    assert translator.text == "a"


@pytest.mark.parametrize("pieces", [[], [chunk("a")], [chunk("a", "stop")], [b"data: [DONE]"]])
def test_a_stream_without_done_stays_open(pieces):
    translator, _ = run(*pieces)
    assert translator.state is StreamState.OPEN


@given(st.lists(st.text(min_size=1, max_size=8), max_size=8), st.data())
def test_what_has_been_told_is_not_told_again(texts, data):
    _, whole = run(*map(chunk, texts), DONE)
    wire = b"".join(map(chunk, texts)) + DONE
    broken, before = run(wire[: data.draw(st.integers(0, len(wire) - len(DONE)))])
    second, after = run(wire, told=broken.told)
    *deltas, done = before + after
    assert second.state is StreamState.COMPLETE
    assert done == whole[-1]
    assert "".join(event["delta"] for event in deltas) == done["text"]
    assert all(event["delta"] for event in deltas)
    assert second.told == done["text"]


@pytest.mark.parametrize(
    "pieces",
    [
        [chunk(" one"), chunk(" too"), DONE],
        [chunk(" on"), DONE],
        [DONE],
        [encode(delta_event("one")), encode(delta_event(" three"))],
        [encode(done_event(""))],
    ],
)
def test_an_engine_that_hears_otherwise_than_was_told_fails_the_stream(pieces):
    translator, events = run(*pieces, told="one two")
    assert translator.state is StreamState.FAILED
    assert [event["error"]["code"] for event in events] == ["engine_failed"]


def test_openais_own_events_go_on_too():
    said = [encode(delta_event("one")), encode(delta_event(" two")), encode(done_event("one two"))]
    translator, events = run(*said, told="one t")
    assert events == [delta_event("wo"), done_event("one two")]
    assert translator.told == "one two"


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (
            {"error": {"message": "dead", "type": "X", "param": "p", "code": 500}},
            {"message": "dead", "type": "X", "param": "p", "code": 500},
        ),
        (
            {"object": "error", "message": "dead", "type": "X", "code": 500},
            {"message": "dead", "type": "X", "param": None, "code": 500},
        ),
        (
            {"error": "dead"},
            {"message": "dead", "type": "server_error", "param": None, "code": None},
        ),
        (
            {"error": {"message": 5, "code": []}},
            {
                "message": "The engine reported an error.",
                "type": "server_error",
                "param": None,
                "code": None,
            },
        ),
    ],
)
def test_an_engines_error_is_passed_on_in_openais_shape(sent, told):
    translator, events = run(chunk("a"), encode(sent), DONE)
    assert events == [delta_event("a"), {"error": told}]
    assert translator.state is StreamState.FAILED


@pytest.mark.parametrize("data", ["oops", "[]", "3", ""])
def test_an_event_that_is_no_object_fails_the_stream(data):
    translator, events = run(encode(data), chunk("a"), DONE)
    assert translator.state is StreamState.FAILED
    assert [event["error"]["code"] for event in events] == ["bad_engine_stream"]


def test_an_endless_event_fails_the_stream():
    translator = ChunkTranslator(max_event_bytes=100)
    [event] = translator.feed(b"x" * 101)
    assert event["error"]["code"] == "bad_engine_stream"
    assert translator.state is StreamState.FAILED


def test_openais_own_events_pass_through():
    done = done_event("a b", {"type": "duration", "seconds": 1})
    sent = [delta_event("a"), segment_event(0, 0.0, 1.0, "a b"), {"type": "transcript.text.delta"}]
    translator, events = run(*map(encode, sent), encode(done), DONE)
    assert events == [*sent, done]
    assert translator.state is StreamState.COMPLETE
    assert translator.text == "a"


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"choices": 3},
        {"choices": [3]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"content": 3}}]},
    ],
)
def test_objects_of_another_kind_are_dropped(message):
    _, events = run(encode(message), DONE)
    assert events == [done_event("")]


@given(st.binary(max_size=100))
def test_the_last_event_says_in_what_state_any_bytes_end(junk):
    translator, events = run(chunk("a") + junk, junk)
    last = events[-1]
    assert (translator.state is StreamState.FAILED) == ("error" in last)
    assert (translator.state is StreamState.COMPLETE) == (
        last.get("type") == "transcript.text.done"
    )


def test_an_engine_chunk_has_vllms_shape():
    event = engine_chunk(
        "hi", request_id="abc", model="m", created=7, task="translate", finish_reason="stop"
    )
    assert event == {
        "id": "translate-abc",
        "object": "translation.chunk",
        "created": 7,
        "model": "m",
        "choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}],
    }
    assert json.loads(chunk("x").removeprefix(b"data: "))["object"] == "transcription.chunk"


def test_an_error_event_has_every_field():
    assert error_event("no", param="file") == {
        "error": {"message": "no", "type": "server_error", "param": "file", "code": None}
    }


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("out of memory", "out of memory"),
        ("see http://10.0.0.7:8000/", "The engine reported an error."),
        (["no", "sentence"], "The engine reported an error."),
    ],
)
def test_an_error_that_is_no_object_is_told_without_an_address_of_the_inside(
    error: object, told: str
) -> None:
    translator = ChunkTranslator()
    [event] = translator.feed(f"data: {json.dumps({'error': error})}\n\n".encode())
    assert event == error_event(told)
    assert translator.state is StreamState.FAILED
