from tests.fake_engine.exchange import Head
from tests.fake_engine.forms import BOUNDARY, field, file, form
from tests.fake_engine.multipart import FormReader
from tests.fake_engine.request_log import LoggedRequest, RequestLog


def logged(path: str = "/v1/audio/transcriptions") -> LoggedRequest:
    reader = FormReader(BOUNDARY, 10)
    reader.feed(form(field("a", b"\xff"), file(b"data")))
    head = Head("POST", path, "q=1", ((b"X-One", b"1"), (b"x-one", b"2")))
    return LoggedRequest(head, 1.0, parts=tuple(reader.finish()))


def test_the_oldest_are_forgotten() -> None:
    log = RequestLog(capacity=2)
    for path in ("/a", "/b", "/c"):
        log.add(logged(path))
    assert [one.path for one in log] == ["/b", "/c"]
    assert len(log) == 2
    log.clear()
    assert len(log) == 0


def test_audio_requests_are_found_among_others() -> None:
    log = RequestLog()
    log.add(logged("/health"))
    log.add(logged())
    assert [one.path for one in log.audio()] == ["/v1/audio/transcriptions"]


def test_a_request_is_shown_as_received() -> None:
    one = logged()
    assert one.header("x-ONE") == "1"
    assert one.header("absent") is None
    assert one.fields == [("a", b"\xff")]
    assert one.file is not None
    shown = one.to_json()
    assert shown["headers"] == [["X-One", "1"], ["x-one", "2"]]
    plain, upload = shown["parts"]  # type: ignore[misc]
    assert plain["value_base64"] == "/w=="
    assert upload["size_bytes"] == 4
    assert "value" not in upload
