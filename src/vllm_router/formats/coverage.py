"""Checks by length whether an engine's transcript covers the speech that it was given.

Engines lose words without notice: a sentence that occurs twice in one window, or everything after
a bar of music. The rest is too short for the detected speech. Engines also invent words: they
repeat a phrase until the window is full, or write "Thanks for watching!" for music.

Promises: pure; every text gets a verdict. A false alarm costs one more engine request, never words.

Bounds: those of alignment.py; at most 1,500 characters are searched for loops.

Refuses to know: engines, and how a piece is transcribed again.
"""

import re
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from statistics import median
from typing import Final

from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.formats.alignment import wordless_s
from vllm_router.formats.plain_text import plain_text
from vllm_router.formats.spoken_length import spoken_length
from vllm_router.formats.stock_phrases import is_credit, is_stock, without_sounds
from vllm_router.formats.transcript import is_unspaced, join_texts

# All rates are spoken length per second of speech (spoken_length.py). Whisper base on English, read
# and declaimed: 13.6 to 21.7 for complete pieces; 2.6 to 12 for pieces that lost several sentences;
# 11.4 for a complete piece with music that the detector took for speech.
USUAL_PER_S: Final = 17.0
_THIN_PER_S: Final = 10.0
# Once the rates of other pieces of the same audio are known, a piece is thin below this share of
# their median, within bounds. The slowest complete piece was at 0.75 of it.
_FEWEST_RATES: Final = 3
_SLOWEST_PER_S: Final = 1.0
_THIN_SHARE: Final = 0.66
_THINNEST_PER_S: Final = 5.0
_LEAST_THIN_PER_S: Final = 13.0
# Less speech than this without words is no loss: the margins of spans, a breath, a drawn-out "yes".
_MISSING_S: Final = 1.5

# One lost sentence hardly changes the rate of 30 s, but it leaves a gap. Of pieces with one
# sentence removed, 67 % had a gap longer than this; of 496 complete pieces, none had.
_WORDLESS_S: Final = 1.25

# The fastest speakers reach 25 for a sentence, but none for a whole piece.
_IMPOSSIBLE_PER_S: Final = 28.0
_TOO_MUCH_SHARE: Final = 1.7
# A phrase that occurs twice in a row was spoken twice if there was time for it.
_HASTY_PER_S: Final = 22.0
_HASTY_SHARE: Final = 1.25
# Spans may be too short by this in total, which matters for short pieces.
_MARGIN_S: Final = 0.5
_SEARCHED: Final = 1500
_PHRASE: Final = re.compile(r"(\S.{11,200}?)\W*\1")
_SHORT_PHRASE: Final = re.compile(r"(\S.{0,10}?)(?:\W*\1){7}")

# A phrase five times in a row, or "no" twenty times, is a loop at any rate.
_ENDLESS: Final = re.compile(r"(\S.{11,200}?)(?:\W*\1){4}")
_ENDLESS_WORD: Final = re.compile(r"(\S.{0,10}?)(?:\W*\1){19}")

# Less speech than this is a click.
_HARDLY_ANY_S: Final = 0.2
# A stock phrase below this rate was not spoken: a real "Thank you." takes 0.7 s.
_STOCK_PER_S: Final = 7.0

# Per second of audio, pauses included, for uploads whose speech is not known.
_THIN_UPLOAD_PER_S: Final = 9.5
_SHORT_UPLOAD_S: Final = 6.0
# Shorter audio is not checked.
_SHORTEST_UPLOAD_S: Final = 0.5
# vLLM's response if the text begins with a letter, which no sound description does.
_LETTER_FIRST: Final = re.compile(rb'\{\s*"text"\s*:\s*"\s*[A-Za-z]')
_NO_ASCII_LETTERS: Final = bytes(c for c in range(256) if c > 127 or not chr(c).isalpha())

_FEWEST_REPEATED_WORDS: Final = 3
_FEWEST_REPEATED_LETTERS: Final = 8
_MOST_REPEATED: Final = 60


class CoverageVerdict(Enum):
    """How a transcript's length compares with the speech."""

    COVERED = "covered"
    """About as many words as fit the speech."""
    THIN = "thin"
    """Words are missing."""
    TOO_MUCH = "too_much"
    """More than anyone can say in the time, or a repeated phrase: a loop."""
    EMPTY = "empty"
    """No words, although there is speech."""
    UNSPOKEN = "unspoken"
    """Words without speech, or a phrase that Whisper is known to write for audio without speech."""


def check_coverage(
    text: str, speech: Sequence[SpeechSpan], rates: Sequence[float] = ()
) -> CoverageVerdict:
    """Return whether a text is plausible as the transcript of the speech.

    Args:
        text: The engine's transcript of one piece.
        speech: The piece's speech spans in seconds, in order, without overlap.
        rates: `speaking_rate` of the same audio's other pieces: covered ones with at least 5 s of
            speech. With fewer than three, absolute limits apply, and a single lost sentence goes
            unnoticed; checking early pieces again at the end finds more.
    """
    speech_s = speech_length_s(speech)
    said = without_sounds(text)
    if not _has_words(said):
        return CoverageVerdict.UNSPOKEN if _has_words(text) else _empty(speech_s)
    length = spoken_length(said)
    if speech_s < _HARDLY_ANY_S:
        return CoverageVerdict.UNSPOKEN
    if is_stock(said) and (is_credit(said) or length < _STOCK_PER_S * speech_s):
        return CoverageVerdict.UNSPOKEN
    usual = usual_rate(rates)
    room_s = speech_s + _MARGIN_S
    most = _IMPOSSIBLE_PER_S if usual is None else max(_TOO_MUCH_SHARE * usual, _HASTY_PER_S)
    if length > most * room_s:
        return CoverageVerdict.TOO_MUCH
    hasty = _HASTY_PER_S if usual is None else max(_HASTY_SHARE * usual, USUAL_PER_S)
    if length > hasty * room_s and is_repetitive(said):
        return CoverageVerdict.TOO_MUCH
    if _is_endless(said):
        return CoverageVerdict.TOO_MUCH
    if _is_thin(length, speech_s, usual):
        return CoverageVerdict.THIN
    if usual is not None and wordless_s(said, speech, usual) > _WORDLESS_S:
        return CoverageVerdict.THIN
    return CoverageVerdict.COVERED


def speaking_rate(text: str, speech: Sequence[SpeechSpan]) -> float:
    """Return the spoken length per second of speech; 0 without speech."""
    speech_s = speech_length_s(speech)
    return spoken_length(text) / speech_s if speech_s > 0 else 0.0


def speech_length_s(speech: Sequence[SpeechSpan]) -> float:
    """Return the seconds of speech in all spans."""
    return sum(max(0.0, end_s - start_s) for start_s, end_s in speech)


def usual_rate(rates: Sequence[float]) -> float | None:
    """Return the audio's median rate; None while fewer than three rates are known."""
    return max(_SLOWEST_PER_S, median(rates)) if len(rates) >= _FEWEST_RATES else None


def is_thin(text: str, audio_s: float) -> bool:
    """Return whether a transcript is so short that the upload should be decoded and checked.

    For uploads sent to an engine unchanged, whose speech is unknown. The transcript of audio of up
    to 6 s is thin only if it has no words.

    Args:
        text: The engine's transcript.
        audio_s: Length of the whole audio, pauses included.
    """
    # Most transcripts begin with a letter, which saves the search for sound descriptions.
    if not text[:1].isalpha() and not _has_words(without_sounds(text)):
        return audio_s >= _SHORTEST_UPLOAD_S
    if audio_s <= _SHORT_UPLOAD_S:
        return False
    # An ASCII letter's spoken length is 1. In most transcripts these letters suffice, and counting
    # them takes a fraction of the time.
    letters = text.encode("ascii", "ignore").translate(None, _NO_ASCII_LETTERS)
    if len(letters) >= _THIN_UPLOAD_PER_S * audio_s:
        return False
    return spoken_length(text) < _THIN_UPLOAD_PER_S * audio_s


def is_ample(answer: bytes, audio_s: float) -> bool:
    """Return whether an engine's JSON certainly has enough words, without parsing it.

    Parsing every short response would take a tenth of an upload's CPU time.

    Args:
        answer: The complete body of a `json` response.
        audio_s: Length of the whole audio, pauses included.

    Returns:
        False if a parser and `is_thin` must decide.
    """
    if audio_s <= _SHORT_UPLOAD_S and _LETTER_FIRST.match(answer) is not None:
        return True
    text = plain_text(answer)
    return text is not None and not is_thin(text, audio_s)


def better_transcript(
    first: str, second: str, speech: Sequence[SpeechSpan], rates: Sequence[float] = ()
) -> str:
    """Return the better of two transcripts of the same speech.

    A covered transcript beats a thin one, which beats one with too much. Of two covered or two thin
    ones the longer is returned, of two with too much the shorter, and the first on a tie.
    """
    first_rank, second_rank = _rank(first, speech, rates), _rank(second, speech, rates)
    return second if second_rank > first_rank else first


def joined_at_cut(
    first: str, second: str, speech: Sequence[SpeechSpan], rates: Sequence[float] = ()
) -> str:
    """Join the texts of two parts of a piece, dropping words that were transcribed in both.

    The words at the end of the first part that also start the second are dropped once if there are
    at least three (in unspaced scripts: eight characters), and if the speaking rate is closer to
    the usual one without them.

    Args:
        first: Text before the cut.
        second: Text after the cut.
        speech: Speech spans of both parts.
        rates: As for `check_coverage`.
    """
    both = join_texts((first, second))
    repeated = _repeated_at_cut(first, second)
    speech_s = speech_length_s(speech)
    if not repeated or speech_s <= 0:
        return both
    once = join_texts((first, second[repeated:].lstrip(" ,.;:!?、。，")))
    usual = usual_rate(rates)
    twice_rate, once_rate = spoken_length(both) / speech_s, spoken_length(once) / speech_s
    if usual is None:
        return once if twice_rate > _HASTY_PER_S else both
    return once if abs(twice_rate - usual) > abs(once_rate - usual) else both


def is_repetitive(text: str) -> bool:
    """Return whether a phrase of 12 characters or more occurs twice in a row or any eight times."""
    searched = _searched(text)
    return _PHRASE.search(searched) is not None or _SHORT_PHRASE.search(searched) is not None


def _is_endless(text: str) -> bool:
    searched = _searched(text)
    if _ENDLESS_WORD.search(searched) is not None:
        return True
    # If a phrase of 12 characters or more occurs five times, so do its first 12 characters.
    # Counting these takes a fortieth of the search's time.
    counts = Counter(searched[at : at + 12] for at in range(len(searched) - 11))
    return max(counts.values(), default=0) >= 5 and _ENDLESS.search(searched) is not None


def _searched(text: str) -> str:
    return " ".join(text.casefold().split())[:_SEARCHED]


def _empty(speech_s: float) -> CoverageVerdict:
    return CoverageVerdict.EMPTY if speech_s >= _HARDLY_ANY_S else CoverageVerdict.COVERED


def _is_thin(length: float, speech_s: float, usual: float | None) -> bool:
    if usual is None:
        least, expected = _THIN_PER_S, USUAL_PER_S
    else:
        least = min(max(_THIN_SHARE * usual, _THINNEST_PER_S), _LEAST_THIN_PER_S)
        expected = usual
    return length < least * speech_s and speech_s - length / expected > _MISSING_S


def _rank(text: str, speech: Sequence[SpeechSpan], rates: Sequence[float]) -> tuple[int, float]:
    length = spoken_length(without_sounds(text))
    match check_coverage(text, speech, rates):
        case CoverageVerdict.COVERED:
            return 3, length
        case CoverageVerdict.THIN:
            return 2, length
        case CoverageVerdict.TOO_MUCH:
            return 1, -length
        case CoverageVerdict.EMPTY | CoverageVerdict.UNSPOKEN:
            return 0, 0.0


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def _repeated_at_cut(first: str, second: str) -> int:
    """Return how many characters at the start of the second text repeat the end of the first."""
    before = [match[0].casefold() for match in _WORD.finditer(first)][-_MOST_REPEATED:]
    after: list[str] = []
    ends: list[int] = []
    for match in _WORD.finditer(second):
        after.append(match[0].casefold())
        ends.append(match.end())
        if len(after) == _MOST_REPEATED:
            break
    for count in range(min(len(before), len(after)), 0, -1):
        if before[-count:] == after[:count]:
            letters = all(len(word) == 1 and is_unspaced(word) for word in after[:count])
            fewest = _FEWEST_REPEATED_LETTERS if letters else _FEWEST_REPEATED_WORDS
            return ends[count - 1] if count >= fewest else 0
    return 0


# A word, or one character of an unspaced script. Combining marks are listed since \w lacks them.
_WORD: Final = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]"
    r"|[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]*"
    r"|[\w\u0300-\u036f\u0591-\u05c7\u064b-\u0652\u0900-\u0963\u0966-\u0dff]+"
)
