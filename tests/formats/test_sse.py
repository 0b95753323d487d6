import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from vllm_router.formats.sse import (
    DONE,
    Event,
    EventReader,
    EventTooLarge,
    comment,
    complete_bytes,
    encode,
)

STREAM = (
    b"\xef\xbb\xbf: hello\r\n"
    b"data: one\r\n\r\n"
    b"event: named\rdata:two\rdata:  three\rid: 7\r\r"
    b"data\n\n"
    b"event: no data\n\n"
    b"retry: 10\nunknown: field\nid: a\0b\ndata: \xff\n\n"
    b"data: unfinished"
)
EVENTS = [
    Event("one"),
    Event("two\n three", "named", "7"),
    Event("", "message", "7"),
    Event("�", "message", "7"),
]


def test_a_stream_fed_whole():
    assert EventReader().feed(STREAM) == EVENTS


def test_a_stream_fed_byte_by_byte():
    reader = EventReader()
    assert [e for byte in STREAM for e in reader.feed(bytes([byte]))] == EVENTS


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_complete_bytes_are_all_events_that_have_ended(newline):
    stream = b"data: one%b%b: two%bdata: two%b%bdata: three%b" % ((newline,) * 6)
    ends = [len(stream[: stream.index(b": two")]), len(stream[: stream.index(b"data: three")])]
    for size in range(len(stream) + 1):
        assert complete_bytes(stream[:size]) == max([end for end in ends if end <= size], default=0)


@given(st.lists(st.integers(0, len(STREAM)), max_size=6).map(sorted))
def test_a_stream_cut_anywhere(cuts):
    reader, events = EventReader(), []
    for begin, end in zip([0, *cuts], [*cuts, len(STREAM)], strict=True):
        events += reader.feed(STREAM[begin:end])
    assert events == EVENTS


def test_an_unfinished_event_is_seen_but_not_given():
    reader = EventReader()
    assert not reader.is_mid_event
    assert reader.feed(b"data: one\n\ndata: tw") == [Event("one")]
    assert reader.is_mid_event
    assert reader.feed(b"o\n") == []
    assert reader.is_mid_event
    assert reader.feed(b"\n") == [Event("two")]
    assert not reader.is_mid_event


def test_a_newline_after_a_chunk_that_ended_in_a_carriage_return_is_no_second_line_end():
    reader = EventReader()
    assert reader.feed(b"data: one\r") == []
    assert reader.feed(b"") == []
    assert reader.feed(b"\ndata: two\r") == []
    assert reader.feed(b"\r") == [Event("one\ntwo")]


@pytest.mark.parametrize("piece", [b"data: 0123456789\n", b"x", b"data:\n", b": comment"])
def test_an_event_over_the_bound_is_refused(piece):
    reader = EventReader(max_event_bytes=1000)
    reader.feed(piece)
    with pytest.raises(EventTooLarge):
        [reader.feed(piece) for _ in range(1000)]


def test_the_bound_is_for_one_event_and_not_for_the_stream():
    reader = EventReader(max_event_bytes=20)
    assert sum(len(reader.feed(b": comment\ndata: 0123456789\n\n")) for _ in range(100)) == 100


@given(st.lists(st.tuples(st.text(), st.none() | st.text(st.characters(codec="utf-8")))))
def test_what_is_written_is_read_back(pairs):
    wire, expected = b"", []
    for data, name in pairs:
        if name is not None and ("\n" in name or "\r" in name):
            with pytest.raises(ValueError, match="one line"):
                encode(data, name)
            continue
        wire += encode(data, name) + comment()
        lines = data.replace("\r\n", "\n").replace("\r", "\n")
        readable = lines.encode("utf-8", "replace").decode()
        expected.append(Event(readable, name or "message"))
    assert EventReader().feed(wire) == expected


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(), max_size=3))
def test_the_official_client_reads_what_is_written(value):
    wire = comment("a\nb") + encode(value, "named") + DONE
    seen = list(SSEDecoder().iter_bytes(iter([wire])))
    assert [event.event for event in seen] == ["named", None]
    assert seen[1].data == "[DONE]"
    assert set(seen[0].json()) == set(value)


@given(st.binary(max_size=200))
def test_no_bytes_raise_within_the_bound(chunk):
    EventReader().feed(chunk)
