from hypothesis import given
from hypothesis import strategies as st

from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.formats.channel_merge import TimeMerge, speaker_label, spoken_by, with_channel
from vllm_router.formats.transcript import Segment, Transcript, Word

# Pieces as a decoder decides them: (channel, start, lengths of the segments in it).
PIECES = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 50), st.lists(st.integers(0, 9), min_size=1, max_size=4)
    ),
    max_size=30,
)


def as_decided(pieces):
    """Return (channel, starts, frontier) of each, in an order in which they may come."""
    clock = [0] * 4
    timed = []
    for channel, pause, lengths in pieces:
        start = clock[channel] + pause
        starts = []
        for length in lengths:
            starts.append(start)
            start += length
        clock[channel] = start
        timed.append((channel, starts))
    return [
        (channel, starts, min((s[0] for _, s in timed[at + 1 :]), default=10**9))
        for at, (channel, starts) in enumerate(timed)
    ]


@given(PIECES)
def test_everything_comes_out_once_in_the_order_of_time(pieces):
    merge = TimeMerge()
    out, added = [], []
    for number, (channel, starts, frontier) in enumerate(as_decided(pieces)):
        for at, start in enumerate(starts):
            item = (start, channel, number, at)
            merge.add(channel, float(start), item)
            added.append(item)
        out += merge.before(float(frontier))
    out += merge.before(float("inf"))
    assert sorted(out) == sorted(added)
    times = [start for start, *_ in out]
    assert times == sorted(times)
    for channel in range(4):
        own = [item for item in out if item[1] == channel]
        assert own == [item for item in added if item[1] == channel]
    assert merge.before(float("inf")) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=40))
def test_a_channel_keeps_its_order_whatever_the_times(items):
    merge = TimeMerge()
    for number, (channel, start) in enumerate(items):
        merge.add(channel, float(start), (channel, number))
    out = merge.before(float("inf"))
    assert sorted(out) == sorted((c, n) for n, (c, _) in enumerate(items))
    for channel in range(4):
        numbers = [n for c, n in out if c == channel]
        assert numbers == sorted(numbers)


def test_what_may_still_come_earlier_is_waited_for():
    merge = TimeMerge()
    merge.add(0, 1.0, "first")
    merge.add(0, 5.0, "third")
    assert merge.before(3.0) == ["first"]
    merge.add(1, 3.0, "second")
    assert merge.before(5.0) == ["second"]
    assert repr(merge) == "<TimeMerge 1 held>"
    assert merge.before(5.1) == ["third"]


def test_at_one_time_the_first_channel_goes_first():
    merge = TimeMerge()
    merge.add(1, 2.0, "right")
    merge.add(0, 2.0, "left")
    assert merge.before(3.0) == ["left", "right"]


def test_segments_get_their_channel_and_words_too():
    part = Transcript(
        "one two",
        segments=(Segment(1.0, 2.0, " one two", {"seek": 0}),),
        words=(Word(1.0, 1.5, "one", {"p": 1}), Word(1.5, 2.0, "two")),
    )
    own = with_channel(part, 1, (SpeechSpan(1.0, 2.0),))
    assert own.segments == (Segment(1.0, 2.0, " one two", {"seek": 0}, 1),)
    assert own.words == (
        Word(1.0, 1.5, "one", {"p": 1, "channel": 1}),
        Word(1.5, 2.0, "two", {"channel": 1}),
    )


def test_words_that_no_segment_has_are_not_lost():
    speech = (SpeechSpan(1.0, 2.0), SpeechSpan(4.0, 5.0))
    for segments in ((), (Segment(1.0, 2.0, "One two."),)):
        own = with_channel(Transcript("One two. Three.", segments=segments), 0, speech)
        assert [s.text for s in own.segments] == ["One two.", "Three."]
        assert own.segments[1].start_s == 4.0
        assert own.segments[1].channel == 0
    assert with_channel(Transcript("one"), 2, ()).segments == (Segment(0.0, 0.0, "one", {}, 2),)


def test_speakers_are_letters_unless_they_have_names():
    assert [speaker_label(channel) for channel in (0, 1, 7, 25)] == ["A", "B", "H", "Z"]
    assert len({speaker_label(channel) for channel in range(100)}) == 100
    assert speaker_label(0, ("Agent", "")) == "Agent"
    assert speaker_label(1, ("Agent", "")) == "B"
    assert spoken_by(Segment(0, 1, "a")) == "A"
    assert spoken_by(Segment(0, 1, "a", channel=1), ("x", "y")) == "y"
