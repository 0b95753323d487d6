import json

from vllm_router.local.responses import (
    Chunk,
    ResponseSegment,
    StreamEvents,
    compression_ratio,
    error_event,
    models_body,
    to_json,
    to_verbose_json,
    usage_of,
)

CHUNKS = [
    Chunk(
        0.0,
        " One. Two.",
        (ResponseSegment(0.0, 1.5, " One.", (7,), -0.5), ResponseSegment(2, 3, " Two.")),
        4,
    ),
    Chunk(29.5, " Three.", (ResponseSegment(0.02, 1.0, " Three.", (9,)),), 2),
]


def test_json_has_usage_in_whole_seconds_rounded_up() -> None:
    usage = {"type": "duration", "seconds": 3}
    assert to_json("transcribe", "a", 2.01) == {"text": "a", "usage": usage}


def test_a_translation_has_no_usage() -> None:
    assert to_json("translate", "a", 2.01) == {"text": "a"}


def test_verbose_json_has_exactly_the_engines_fields() -> None:
    body = to_verbose_json(CHUNKS, "en", 31.25, 0.5)
    assert list(body) == ["duration", "language", "text", "segments"]
    assert body["duration"] == 31.25
    assert body["text"] == " One.  Two.  Three."
    segments = body["segments"]
    assert isinstance(segments, list)
    assert list(segments[0]) == [
        "id",
        "seek",
        "start",
        "end",
        "text",
        "tokens",
        "temperature",
        "avg_logprob",
        "compression_ratio",
        "no_speech_prob",
    ]
    assert segments[0]["no_speech_prob"] is None
    assert segments[0]["temperature"] == 0.5


def test_segment_ids_restart_in_each_chunk_and_times_do_not() -> None:
    segments = to_verbose_json(CHUNKS, "en", 31.25, 0.0)["segments"]
    assert isinstance(segments, list)
    assert [one["id"] for one in segments] == [0, 1, 0]
    assert [(one["start"], one["end"]) for one in segments] == [(0, 1.5), (2, 3), (29.52, 30.5)]
    assert [one["seek"] for one in segments] == [0, 0, 29]


def test_repetition_shows_in_the_compression_ratio() -> None:
    assert compression_ratio("again " * 50) > 2.4 > compression_ratio("said once")


def test_events_are_the_engines_chunks() -> None:
    events = StreamEvents("transcribe-1", "transcribe", "m", 17)
    assert events.delta(" ü") == (
        'data: {"id":"transcribe-1","object":"transcription.chunk","created":17,"model":"m",'
        '"choices":[{"delta":{"content":" ü"}}]}\n\n'.encode()
    )
    end = json.loads(events.end_of_chunk(usage_of(4, 3))[6:])
    assert end["choices"][0]["finish_reason"] == "stop"
    assert end["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
    last = json.loads(events.usage(usage_of(4, 3))[6:])
    assert last["choices"] == []
    translated = StreamEvents("t", "translate", "m", 17).delta("a")
    assert json.loads(translated[6:])["object"] == "translation.chunk"
    assert error_event({"error": {}}) == b'data: {"error": {}}\n\n'


def test_models_are_listed_as_openai_lists_them() -> None:
    body = models_body(["a", "b"], 5)
    assert body["object"] == "list"
    data = body["data"]
    assert isinstance(data, list)
    assert [(one["id"], one["object"], one["created"]) for one in data] == [
        ("a", "model", 5),
        ("b", "model", 5),
    ]
