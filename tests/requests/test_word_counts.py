"""What is counted of words; where it is counted is tested with whoever does."""

import pytest

from vllm_router.observability.request_record import RequestRecord, Task
from vllm_router.requests.word_counts import WordCounts


def test_an_answer_without_a_word_is_counted_and_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    empty: list[str] = []
    counts = WordCounts(lambda *_: None, lambda *_: None, empty.append)
    engines = [f"http://engine-{i}" for i in range(40)]
    record = RequestRecord("request-1", Task.TRANSCRIBE, speech_s=12.34, engines=engines)
    counts.note_empty("whisper", record)
    assert empty == ["whisper"]
    (record,) = caplog.records
    words = record.getMessage()
    assert record.levelname == "WARNING"
    assert "request-1" in words
    assert "12.3 s of speech" in words
    # A line of a large fleet stays a line.
    assert "http://engine-15" in words
    assert "http://engine-16" not in words
