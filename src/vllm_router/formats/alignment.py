"""Segment times for a transcript that has none, derived from the speech spans.

An engine's words are in spoken order, and the voice activity detector knows when somebody spoke. It
remains to find the word that starts each span. Three cues help: a word takes time in proportion to
its length; sentences end in pauses, which are longer than pauses at commas and much longer than
those within a phrase; and nobody pauses inside a word.

Promises: the segments contain the whole text, in order. Their times are in order, do not overlap,
and start and end within speech. No segment spans a pause of a second or more.

Bounds: at most 200 units (words, or groups of words in a longer text) over at most 40 spans; if
there are more spans, those with the shortest pauses between them are merged first. About 5 ms for
a piece of 30 s.

Refuses to know: samples, engines, and any grammar beyond punctuation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.formats.line_breaking import Ending
from vllm_router.formats.spoken_length import spoken_length
from vllm_router.formats.spoken_units import Unit, spoken_units, text_of
from vllm_router.formats.transcript import Segment

_MOST_UNITS: Final = 200
_MOST_STRETCHES: Final = 40
_MILLISECONDS: Final = 3

# Bounds on the speaking rate taken from the piece itself, in spoken length per second. A lower rate
# means that words are missing; a higher one, that the detector missed speech.
_SLOWEST_PER_S: Final = 9.0
_FASTEST_PER_S: Final = 28.0
# Costs are squared deviations. They were fitted, together with the lengths above, to recordings of
# six speakers, joined in different orders and played at different speeds.
# Standard deviation of the time that a run of words takes, as a function of its expected time.
_SPREAD_S: Final = 0.25
_SPREAD_PER_ROOT_S: Final = 0.2
# Beyond this many deviations the cost grows linearly: words may be missing.
_FAR: Final = 3.0
# Cost of a pause after a sentence, a clause, or a word: for a pause of 0 s, and for each second of
# it up to 1.5 s.
_PAUSE_COST: Final = (0.0, 0.6, 2.5)
_PAUSE_COST_PER_S: Final = (-1.5, 0.0, 1.0)
_LONGEST_PAUSE_S: Final = 1.5
# Cost of continuing without a pause after a sentence, a clause, or a word.
_HASTE_COST: Final = (4.0, 1.0, 0.0)
# Speaking rates relative to the piece's average. An orator and a reader in one piece may differ as
# much as the second and the fourth.
_TEMPOS: Final = (0.64, 0.8, 1.0, 1.25, 1.56)
# Cost of starting at each tempo; cost of changing by one step in a pause after a sentence, a
# clause, or a word. After a sentence another speaker may begin, at any tempo.
_TEMPO_COST: Final = (2.0, 0.5, 0.0, 0.5, 2.0)
_CHANGE_COST: Final = (1.0, 2.0, 3.0)
_NEW_SPEAKER_COST: Final = 1.0
# These limits only save time: words may be ahead of or behind the average rate by this many seconds
# plus this share of all speech, and states that cost this much more than the best are dropped.
_SLACK_S: Final = 5.0
_SLACK_SHARE: Final = 0.2
_HOPELESS_COST: Final = 25.0

# A speaker at this share of the usual rate is slow, not incomplete.
_SLOWER: Final = 0.75

# A pause this long always ends a segment.
_LONG_PAUSE_S: Final = 1.0
# A sentence that ends without a pause shares its segment with the next one, up to this length.
_SHARED_S: Final = 6.0
# Longer segments are cut at a pause between clauses, at any pause, and between any two words.
_LONG_S: Final = 7.0
_VERY_LONG_S: Final = 12.0
_LONGEST_S: Final = 20.0

_Costs = NDArray[np.float64]
_Indices = NDArray[np.int64]


def aligned(text: str, speech: Sequence[SpeechSpan]) -> tuple[Segment, ...]:
    """Split a text into segments and give each its time.

    A segment is a sentence, or part of one between pauses. Sentences without a pause between them
    share a segment. Segments start at the start of a span unless there is no pause for a long time.

    Args:
        text: The engine's text for this speech.
        speech: Spans in seconds, in order, without overlap.

    Returns:
        Segments in order. Their texts add up to the text, except for white space. Without speech
        there is one segment, from 0 to 0.
    """
    stretches = _stretches(speech)
    units = spoken_units(text, _MOST_UNITS)
    if not units:
        return ()
    if not stretches:
        return (Segment(0.0, 0.0, text_of(units)),)
    total_s = sum(end_s - start_s for start_s, end_s in stretches)
    rate = sum(unit.length for unit in units) / total_s
    rate = min(max(rate, _SLOWEST_PER_S), _FASTEST_PER_S)
    firsts = _Search(units, stretches, rate).first_units()
    return tuple(_segments(_placed(units, stretches, firsts)))


def wordless_s(text: str, speech: Sequence[SpeechSpan], rate_per_s: float) -> float:
    """Return the longest run of speech, in seconds, that a text has no words for.

    Words are placed as in `aligned`. A speaker up to a quarter slower than usual leaves no gap. The
    position of the gap is not returned because it is ambiguous: if sentences are about equally
    long, any of them may be the missing one.

    Args:
        text: The engine's text for this speech.
        speech: Spans in seconds, in order, without overlap.
        rate_per_s: The usual `coverage.speaking_rate` in this audio, greater than 0.
    """
    stretches = _stretches(speech)
    units = spoken_units(text, _MOST_UNITS)
    lengths = [0.0] * len(stretches)
    if units and stretches:
        # Units are longer than their text: they include the drawl before pauses.
        rate = rate_per_s * sum(unit.length for unit in units) / max(1.0, spoken_length(text))
        firsts = _Search(units, stretches, rate).first_units()
        for at, last in enumerate([*firsts[1:], len(units)]):
            lengths[at] = sum(unit.length for unit in units[firsts[at] : last]) / rate
    most_s = in_a_row_s = 0.0
    for (start_s, end_s), length_s in zip(stretches, lengths, strict=True):
        in_a_row_s = max(0.0, in_a_row_s + (end_s - start_s) * _SLOWER - length_s)
        most_s = max(most_s, in_a_row_s)
    return most_s


def _stretches(speech: Sequence[SpeechSpan]) -> list[SpeechSpan]:
    """Return at most 40 disjoint spans; those with the shortest pauses between them are merged."""
    out: list[SpeechSpan] = []
    for start_s, end_s in speech:
        start_s = max(start_s, out[-1].end_s) if out else start_s
        if end_s > start_s:
            out.append(SpeechSpan(start_s, end_s))
    if len(out) > _MOST_STRETCHES:
        pauses = sorted(after.start_s - before.end_s for before, after in pairwise(out))
        least_s = pauses[len(out) - _MOST_STRETCHES - 1]
        joined = out[:1]
        left = len(out) - _MOST_STRETCHES
        for span in out[1:]:
            if left and span.start_s - joined[-1].end_s <= least_s:
                joined[-1] = SpeechSpan(joined[-1].start_s, span.end_s)
                left -= 1
            else:
                joined.append(span)
        return joined
    return out


class _Search:
    """Finds the cheapest assignment of units to stretches by dynamic programming.

    A state is the number of units spoken by the end of a stretch, and the tempo of that stretch:
    the next speaker may be twice as fast.
    """

    __slots__ = ("_best", "_due_s", "_endings", "_haste", "_stretches", "_total_s")

    def __init__(self, units: Sequence[Unit], stretches: Sequence[SpeechSpan], rate: float) -> None:
        self._stretches = stretches
        self._total_s = sum(end_s - start_s for start_s, end_s in stretches)
        # Before each unit: seconds of words at the average rate, and the cost of not pausing.
        self._due_s = _running_total([unit.length / rate for unit in units])
        self._haste = _running_total([_HASTE_COST[unit.ending] for unit in units])
        # The kind of ending before each unit; none before the first.
        self._endings = np.array([Ending.WORD, *(unit.ending for unit in units)])
        # The lowest cost of each state: a row per tempo.
        self._best: _Costs = np.full((len(_TEMPOS), len(units) + 1), np.inf)
        self._best[:, 0] = _TEMPO_COST

    def first_units(self) -> list[int]:
        """Return the index of each stretch's first unit; an empty one repeats the next."""
        count = len(self._due_s) - 1
        steps: list[tuple[_Indices, _Indices]] = []
        spoken_s = 0.0
        for at, (start_s, end_s) in enumerate(self._stretches):
            spoken_s += end_s - start_s
            if at == len(self._stretches) - 1:
                # The last stretch takes all remaining units.
                ends, pause_s = range(count, count + 1), 0.0
            else:
                ends = self._band(spoken_s)
                pause_s = self._stretches[at + 1].start_s - end_s
            begins = self._speak(end_s - start_s, ends)
            steps.append((begins, self._pause(pause_s)))
        firsts: list[int] = []
        end, tempo = count, int(np.argmin(self._best[:, count]))
        for begins, tempos in reversed(steps):
            tempo = int(tempos[tempo, end])
            end = int(begins[tempo, end])
            firsts.append(end)
        firsts.reverse()
        return firsts

    def _band(self, spoken_s: float) -> range:
        """Return the numbers of units that may have been spoken after this much speech."""
        due_s = self._due_s
        all_s = float(due_s[-1])
        slack_s = _SLACK_S + _SLACK_SHARE * self._total_s + max(0.0, all_s - self._total_s)
        lowest = np.searchsorted(due_s, all_s - (self._total_s - spoken_s) - slack_s, "left")
        return range(int(lowest), int(np.searchsorted(due_s, spoken_s + slack_s, "right")))

    def _speak(self, length_s: float, ends: range) -> _Indices:
        """Advance all states over a stretch of speech.

        Returns:
            By tempo and number of units spoken: the stretch's first unit.
        """
        due_s, haste, before = self._due_s, self._haste, self._best
        spread_s = _SPREAD_S + _SPREAD_PER_ROOT_S * length_s**0.5
        after: _Costs = np.full_like(before, np.inf)
        begins: _Indices = np.zeros(before.shape, np.int64)
        end = np.arange(ends.start, ends.stop)
        dearest = float(before.min()) + _HOPELESS_COST
        is_hopeful = before <= dearest
        begin = np.flatnonzero(is_hopeful.any(axis=0))
        # The same for every tempo: the time of the words between, and the cost of their endings.
        # Only endings inside the stretch count: the last unit is followed by a pause.
        due_between_s = due_s[end] - due_s[begin, None]
        haste_cost = np.maximum(haste[np.maximum(end - 1, 0)] - haste[begin, None], 0.0)
        haste_cost[end < begin[:, None]] = np.inf
        columns = np.arange(len(end))
        for tempo, speed in enumerate(_TEMPOS):
            if not is_hopeful[tempo].any():
                continue
            off = due_between_s / speed
            off -= length_s
            np.abs(off, out=off)
            off /= spread_s
            # Squared up to _FAR deviations, linear beyond.
            near = np.minimum(off, _FAR)
            cost = (2.0 * off - near) * near
            cost += haste_cost
            cost += np.where(is_hopeful[tempo, begin], before[tempo, begin], np.inf)[:, None]
            least = np.argmin(cost, axis=0)
            after[tempo, end] = cost[least, columns]
            begins[tempo, end] = begin[least]
        self._best = after
        return begins

    def _pause(self, pause_s: float) -> _Indices:
        """Advance all states over a pause, in which the tempo may change.

        Returns:
            By tempo and number of units spoken: the tempo before the pause.
        """
        pause_s = min(pause_s, _LONGEST_PAUSE_S)
        pause_cost = np.array(_PAUSE_COST) + np.array(_PAUSE_COST_PER_S) * pause_s
        # Axes: tempo after, tempo before, units spoken.
        cost = self._best + _CHANGE_COSTS[self._endings].transpose(1, 2, 0)
        tempos: _Indices = np.argmin(cost, axis=1)
        self._best = np.take_along_axis(cost, tempos[:, None], axis=1)[:, 0]
        # A pause before the first word or after the last is no evidence.
        self._best[:, 1:-1] += pause_cost[self._endings[1:-1]]
        return tempos


def _running_total(values: Sequence[float]) -> _Costs:
    return np.concatenate(([0.0], np.cumsum(values)))


def _change_costs() -> _Costs:
    """Return the cost of each change of tempo, by the kind of ending before the pause."""
    count = len(_TEMPOS)
    costs = np.empty((len(Ending), count, count))
    for ending in Ending:
        for after in range(count):
            for before in range(count):
                cost = _CHANGE_COST[ending] * abs(after - before)
                if ending is Ending.SENTENCE and after != before:
                    cost = _NEW_SPEAKER_COST + _TEMPO_COST[after]
                costs[ending, after, before] = cost
    return costs


_CHANGE_COSTS: Final = _change_costs()


@dataclass(frozen=True, slots=True)
class _Placed:
    """A unit and its time; `begins` marks the first unit of a stretch."""

    unit: Unit
    start_s: float
    end_s: float
    begins: bool


def _placed(
    units: Sequence[Unit], stretches: Sequence[SpeechSpan], firsts: Sequence[int]
) -> list[_Placed]:
    out: list[_Placed] = []
    for at, (start_s, end_s) in enumerate(stretches):
        last = firsts[at + 1] if at + 1 < len(firsts) else len(units)
        inside = units[firsts[at] : last]
        total = sum(unit.length for unit in inside)
        done, from_s = 0.0, start_s
        for place, unit in enumerate(inside):
            done += unit.length
            until_s = round(start_s + (end_s - start_s) * done / total, _MILLISECONDS)
            # The stretch's own edges stay exact.
            until_s = end_s if place == len(inside) - 1 else min(max(until_s, from_s), end_s)
            out.append(_Placed(unit, from_s, until_s, place == 0))
            from_s = until_s
    return out


def _segments(placed: Sequence[_Placed]) -> Iterator[Segment]:
    begin = 0
    for at in range(1, len(placed) + 1):
        if at == len(placed) or _is_cut(placed, begin, at):
            part = placed[begin:at]
            yield Segment(part[0].start_s, part[-1].end_s, text_of([item.unit for item in part]))
            begin = at


def _is_cut(placed: Sequence[_Placed], begin: int, at: int) -> bool:
    before, after = placed[at - 1], placed[at]
    pause_s = after.start_s - before.end_s
    length_s = before.end_s - placed[begin].start_s
    if pause_s >= _LONG_PAUSE_S:
        return True
    if before.unit.ending is Ending.SENTENCE:
        return after.begins or length_s >= _SHARED_S
    if after.begins:
        return length_s >= (_LONG_S if before.unit.ending is Ending.CLAUSE else _VERY_LONG_S)
    return length_s >= _LONGEST_S
