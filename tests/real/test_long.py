"""Minutes of recordings of people, joined: through the router, and straight to one engine.

`--seed` joins others.
"""

import math
from itertools import pairwise
from typing import Any

import pytest
from tests.clients.servers import Server
from tests.real.ask import TIMEOUT_S, Streamed, stream, transcribe, windows_spent
from tests.speech import people
from tests.speech.cues import Cue, cue_accuracy, read_subtitles
from tests.speech.recordings import Recording, as_mp3
from tests.speech.words import WordErrors, word_errors

pytestmark = pytest.mark.timeout(2 * TIMEOUT_S)

# Of the words wrong, with pauses of silence, and with noise and music among them.
# Wanted for the hard recording are 1.5 %, which the figures tell. It is short: two words are 0.5 %.
ALLOWED_CLEAN, ALLOWED_HARD = 0.010, 0.02
# How far the formats of one upload may differ, in words.
FORMATS_DIFFER = 0.002
# Of the cues must begin with the speech.
NEAR_SHARE = 0.95
# Windows spent over those of pieces that are full, for what is asked again.
WINDOWS_CLEAN, WINDOWS_HARD = 1.15, 1.35
WINDOW_S = 30.0
# Pauses longer than this are not sent.
PAUSE_SENT_S = 2.0
# 24 clips last four to five minutes, 14 with long pauses between them as much.
CLEAN_CLIPS, HARD_CLIPS = 24, 14


@pytest.fixture(scope="module")
def clean(pytestconfig: pytest.Config) -> Recording:
    return people.joined_clips(pytestconfig.getoption("--seed"), CLEAN_CLIPS)


@pytest.fixture(scope="module")
def hard(pytestconfig: pytest.Config) -> Recording:
    seed = pytestconfig.getoption("--seed") + 1
    return as_mp3(people.joined_clips(seed, HARD_CLIPS, ("silence", "noise", "music")), 128_000)


def full_windows(recording: Recording) -> int:
    """The windows that hold the speech, and what pauses are sent along, without a gap."""
    sent_s = sum(s.end_s - s.start_s for s in recording.sentences)
    sent_s += sum(
        min(PAUSE_SENT_S, after.start_s - before.end_s)
        for before, after in pairwise(recording.sentences)
    )
    return math.ceil(sent_s / WINDOW_S)


@pytest.fixture(scope="module")
def plain(router_url: str, clean: Recording, figures: dict[str, object]) -> str:
    """The words of the clean recording as json; what they cost is checked on the way."""
    before = windows_spent(router_url)
    text = str(transcribe(router_url, clean, response_format="json").json()["text"])
    spent, full = windows_spent(router_url) - before, full_windows(clean)
    figures["windows, clean"] = f"{spent:.0f} for {full} full ones"
    assert spent <= math.ceil(WINDOWS_CLEAN * full)
    return text


@pytest.fixture(scope="module")
def verbose(router_url: str, clean: Recording) -> dict[str, Any]:
    answer: dict[str, Any] = transcribe(router_url, clean, response_format="verbose_json").json()
    return answer


@pytest.fixture(scope="module")
def cues(router_url: str, clean: Recording) -> list[Cue]:
    return read_subtitles(transcribe(router_url, clean, response_format="srt").text, "srt")


@pytest.fixture(scope="module")
def streamed(router_url: str, clean: Recording) -> Streamed:
    return stream(router_url, clean)


def test_fewer_words_are_wrong_than_straight_to_one_engine(
    engines: list[Server], clean: Recording, plain: str, figures: dict[str, object]
) -> None:
    straight = transcribe(engines[0].url, clean, response_format="json").json()["text"]
    ours, theirs = (word_errors(clean.text, text) for text in (plain, straight))
    figures["clean"] = f"{clean.duration_s:.0f} s: {ours}; straight to one engine: {theirs}"
    assert ours.rate <= ALLOWED_CLEAN
    assert ours.wrong <= theirs.wrong


def test_every_format_has_the_same_words(
    clean: Recording,
    plain: str,
    verbose: dict[str, Any],
    cues: list[Cue],
    streamed: Streamed,
    figures: dict[str, object],
) -> None:
    others = {
        "verbose_json": verbose["text"],
        "segments": " ".join(segment["text"] for segment in verbose["segments"]),
        "srt": " ".join(cue.text for cue in cues),
        "stream": streamed.final,
    }
    errors = {way: word_errors(clean.text, text) for way, text in others.items()}
    figures["clean in every format"] = ", ".join(f"{way}: {e}" for way, e in errors.items())
    for way, text in others.items():
        assert word_errors(plain, text).rate <= FORMATS_DIFFER, way


def test_segments_run_on_over_the_cuts(clean: Recording, verbose: dict[str, Any]) -> None:
    segments = verbose["segments"]
    assert [segment["id"] for segment in segments] == list(range(len(segments)))
    assert float(verbose["duration"]) == pytest.approx(clean.duration_s, abs=0.1)
    assert verbose["language"] == "en"
    assert all(segment["start"] <= segment["end"] for segment in segments)
    assert all(before["end"] <= after["start"] for before, after in pairwise(segments))


def test_cues_and_segments_begin_with_the_speech(
    clean: Recording, verbose: dict[str, Any], cues: list[Cue], figures: dict[str, object]
) -> None:
    segments = [Cue(s["start"], s["end"], s["text"]) for s in verbose["segments"]]
    for way, listed in (("segments", segments), ("cues", cues)):
        accuracy = cue_accuracy(listed, clean)
        figures[f"{way} that begin with the speech"] = str(accuracy)
        assert accuracy.share >= NEAR_SHARE


def test_words_stream_out_while_the_rest_is_done(
    streamed: Streamed, figures: dict[str, object]
) -> None:
    figures["clean as a stream"] = (
        f"first words after {streamed.first_s:.2f} s of {streamed.total_s:.2f} s "
        f"({streamed.first_s / streamed.total_s:.1%})"
    )
    assert streamed.deltas == streamed.final
    # A piece or two of nine: other work on the machine must not fail it.
    assert streamed.first_s < streamed.total_s / 2


def test_noise_and_music_cost_no_words(
    router_url: str, hard: Recording, figures: dict[str, object]
) -> None:
    before = windows_spent(router_url)
    text = transcribe(router_url, hard, response_format="vtt").text
    spent, full = windows_spent(router_url) - before, full_windows(hard)
    cues = read_subtitles(text, "vtt")
    errors: WordErrors = word_errors(hard.text, " ".join(cue.text for cue in cues))
    accuracy = cue_accuracy(cues, hard)
    figures["hard"] = (
        f"{hard.duration_s:.0f} s as mp3: {errors}, cues that begin with the speech: {accuracy}, "
        f"{spent:.0f} windows for {full} full ones"
    )
    assert errors.rate <= ALLOWED_HARD
    # Of some thirty cues one is 3 %.
    assert accuracy.share >= NEAR_SHARE - 0.05
    assert spent <= math.ceil(WINDOWS_HARD * full)


def test_audio_longer_than_an_engine_takes_is_heard(
    router_url: str, pytestconfig: pytest.Config
) -> None:
    # Engines refuse more than 600 s; most of this is noise, which costs them nothing.
    first, last = (people.spoken(name) for name in ("jfk.flac", "libri-1088-134315-0000.wav"))
    spoken = people.in_a_row([first, people.no_speech("noise", 600.0), last])
    answer = transcribe(router_url, spoken, response_format="json").json()
    errors = word_errors(spoken.text, answer["text"])
    # A single word of so few may be wrong.
    assert errors.wrong <= 1 + ALLOWED_HARD * errors.said
