"""Converts segments to cues: the text that a player shows, and when.

Promises: cues are in order, never overlap, are never empty, never shorter than one frame of film,
and never exceed the style's size. They are made segment by segment, so that they can be sent while
the rest is being transcribed. The caller numbers them.

Bounds: those of line_breaking.py.

Refuses to know: how a format writes a cue (formats.py).
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from vllm_router.audio.speech_spans import SpeechSpan, spans_within
from vllm_router.formats.line_breaking import Atom, atoms, blocks, sentences, width_of
from vllm_router.formats.transcript import Segment

# At 24 frames a second, players cannot show anything shorter.
_SHORTEST_CUE_MS = 42
# The end of a sentence is searched in pauses within this share of the segment around the position
# estimated from its length in characters, because people do not speak evenly.
_PAUSE_SEARCH_SHARE = 0.2
# Pauses between sentences are longer than within: one more second compensates for this share.
_SHARE_PER_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0
# A cut inside a sentence is estimated by length; a pause this near is a better one.
_NEAR_PAUSE_S = 0.25
# Control characters, and characters that break lines in some players; str.split handles other white
# space.
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff\ufff9-\ufffb\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SubtitleStyle:
    """Size limits of a cue.

    The defaults follow broadcasters' style guides for Latin script. East Asian wide characters
    count as two, which gives them 21 columns of the same width.

    Attributes:
        max_line_chars: Columns of a line, 10 to 1000.
        max_lines: Lines of a cue, 1 to 10.

    Raises:
        ValueError: A number is out of range.
    """

    max_line_chars: int = 42
    max_lines: int = 2

    def __post_init__(self) -> None:
        if not 10 <= self.max_line_chars <= 1000:
            raise ValueError("a subtitle line has 10 to 1000 characters")
        if not 1 <= self.max_lines <= 10:
            raise ValueError("a subtitle has 1 to 10 lines")


@dataclass(frozen=True, slots=True)
class Cue:
    """Lines of plain text and their display time.

    Attributes:
        start_ms: From the start of the audio; not before the end of the previous cue.
        end_ms: Later than `start_ms`.
        lines: At least one, none of them blank.
    """

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


class CueMaker:
    """Creates the cues of one audio, segment by segment."""

    __slots__ = ("_last_end_ms", "_style")

    def __init__(self, style: SubtitleStyle | None = None) -> None:
        self._style = style if style is not None else SubtitleStyle()
        self._last_end_ms = 0

    def cues(self, segment: Segment, speech: Sequence[SpeechSpan] | None = None) -> list[Cue]:
        """Return the cues of the next segment; none if it has no visible text.

        A segment that is too long for one cue is cut, if possible after sentences, and its time is
        divided by length of text.

        Args:
            segment: Preferably with edges already moved to speech (`snapping.snapped`).
            speech: Speech spans on the segment's clock. If given, a cut between sentences is
                searched in the pauses, no cue spans such a pause, and pauses count for no text.
        """
        shown = filter(_is_visible, _CONTROLS.sub("", segment.text).split())
        words = atoms(" ".join(shown), self._style.max_line_chars)
        if not words:
            return []
        start_s, end_s = _finite(segment.start_s), _finite(segment.end_s)
        clock = _SpeechClock(start_s, max(start_s, end_s), speech or ())
        out: list[Cue] = []
        for group, group_clock in _groups(words, clock):
            out.extend(self._cues(group, group_clock))
        return out

    def _cues(self, words: Sequence[Atom], clock: "_SpeechClock") -> list[Cue]:
        parts = blocks(words, self._style.max_line_chars, self._style.max_lines)
        total = sum(part.width for part in parts)
        out: list[Cue] = []
        done = 0
        _, start_s = clock.cut_at(0.0)
        for part in parts:
            done += part.width
            end_s, next_start_s = clock.cut_at(done / total)
            out.append(self._placed(start_s, end_s, part.lines))
            start_s = next_start_s
        return out

    def _placed(self, start_s: float, end_s: float, lines: tuple[str, ...]) -> Cue:
        start_ms = max(round(start_s * 1000), self._last_end_ms)
        end_ms = max(round(end_s * 1000), start_ms + _SHORTEST_CUE_MS)
        self._last_end_ms = end_ms
        return Cue(start_ms, end_ms, lines)


class _SpeechClock:
    """A clock that runs only during speech, from 0 to 1 over a segment."""

    __slots__ = ("_spans", "_total_s")

    def __init__(self, start_s: float, end_s: float, speech: Sequence[SpeechSpan]) -> None:
        inside = [span for span in spans_within(speech, start_s, end_s) if span[0] < span[1]]
        if inside:
            # Keep the segment's own edges: the caller has moved them if wanted.
            inside[0] = SpeechSpan(start_s, inside[0][1])
            inside[-1] = SpeechSpan(inside[-1][0], end_s)
        self._spans = inside or [SpeechSpan(start_s, end_s)]
        self._total_s = sum(end_s - start_s for start_s, end_s in self._spans)

    @property
    def pauses(self) -> list[tuple[float, float]]:
        """Each pause: the share of the speech before it, and its length in seconds."""
        out: list[tuple[float, float]] = []
        spoken_s = 0.0
        for (start_s, end_s), (next_start_s, _) in pairwise(self._spans):
            spoken_s += end_s - start_s
            out.append((spoken_s / self._total_s, next_start_s - end_s))
        return out

    def split(self, pauses: Sequence[int]) -> list["_SpeechClock"]:
        """Return the clocks between some of the pauses."""
        bounds = [0, *(pause + 1 for pause in pauses), len(self._spans)]
        out: list[_SpeechClock] = []
        for first, last in pairwise(bounds):
            spans = self._spans[first:last]
            out.append(_SpeechClock(spans[0][0], spans[-1][1], spans))
        return out

    def cut_at(self, share: float) -> tuple[float, float]:
        """Return when the text before this share of it ends, and when the text after begins.

        Both are the same, or the edges of a nearby pause.
        """
        spans = self._spans
        if share <= 0.0:
            return spans[0][0], spans[0][0]
        if share >= 1.0:
            return spans[-1][1], spans[-1][1]
        at, left_s = 0, share * self._total_s
        while at + 1 < len(spans) and left_s > spans[at][1] - spans[at][0]:
            left_s -= spans[at][1] - spans[at][0]
            at += 1
        start_s, end_s = spans[at]
        if at > 0 and left_s < _NEAR_PAUSE_S:
            return spans[at - 1][1], start_s
        if at + 1 < len(spans) and end_s - start_s - left_s < _NEAR_PAUSE_S:
            return end_s, spans[at + 1][0]
        return start_s + left_s, start_s + left_s


def _groups(
    words: Sequence[Atom], clock: _SpeechClock
) -> list[tuple[Sequence[Atom], _SpeechClock]]:
    """Divide a segment's sentences at the pauses between them, if such pauses are found."""
    pauses, parts = clock.pauses, sentences(words)
    if not pauses or len(parts) == 1:
        return [(words, clock)]
    total = sum(width_of(part) for part in parts)
    groups: list[list[Atom]] = [list(parts[0])]
    taken: list[int] = []
    spoken = width_of(parts[0])
    for part in parts[1:]:
        pause = _best_pause(pauses, taken[-1] + 1 if taken else 0, spoken / total)
        if pause is None:
            groups[-1].extend(part)
        else:
            taken.append(pause)
            groups.append(list(part))
        spoken += width_of(part)
    return list(zip(groups, clock.split(taken), strict=True))


def _best_pause(pauses: Sequence[tuple[float, float]], first: int, share: float) -> int | None:
    """Return which pause from the first on is at a share of the speech, if any."""
    found: int | None = None
    least = math.inf
    for at in range(first, len(pauses)):
        off, length_s = abs(pauses[at][0] - share), pauses[at][1]
        cost = off - _SHARE_PER_PAUSE_S * min(length_s, _LONGEST_PAUSE_S)
        if off <= _PAUSE_SEARCH_SHARE and cost < least:
            found, least = at, cost
    return found


def _is_visible(text: str) -> bool:
    """Return whether a text has more than marks and zero-width characters."""
    return any(unicodedata.category(character)[0] not in "CZM" for character in text)


def _finite(seconds: float) -> float:
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
