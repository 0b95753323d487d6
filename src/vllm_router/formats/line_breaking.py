"""Breaks text into blocks of few short lines, where a reader would break them.

Promises: no line exceeds the width, no block exceeds the line limit, and only the white space at
breaks is lost. Breaks after sentences are preferred to breaks after clauses, these to breaks
between words; a word is broken only if it is wider than a line. Lines and blocks are about equally
full.

Bounds: time grows with the text times the words of a block.

Refuses to know: time, subtitle formats, and grammar beyond punctuation. Chinese and Japanese may
break between any two characters, unless their punctuation forbids it; Thai, Lao, Khmer, Burmese and
other scripts without spaces break between words (text_breaks.py).
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from vllm_router.formats.text_breaks import clusters, has_unspaced_script, line_parts

# The order of preference, as costs. In a line they compete with squares of a line's distance from
# the mean width: a break between words may be 7 characters off the middle to reach a full stop.
_LINE_COST = (0.0, 30.0, 100.0)
# Among blocks they compete with the cost of one more block and of one left nearly empty.
_BLOCK_COST = (0.0, 3.0, 6.0)
_NEW_BLOCK_COST = 4.0
_EMPTINESS_COST = 4.0

_CLOSING = frozenset(
    ",.!?:;)]}%'\"’”»…‥、。，．！？：；）］｝」』】〉》〕・ー々ゝゞ"
    "ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ"
)
_OPENING = frozenset("([{“‘«（［｛「『【〈《〔¿¡")
_QUOTES = "'\"’”»)]}）］｝」』】〉》〕"
_SENTENCE_ENDS = frozenset(".!?…。！？．｡؟۔।॥։።။។")
_CLAUSE_ENDS = frozenset(",;:、，；：､—–،؛፣၊")
# Periods that do not end a sentence. Single letters ("J. S. Bach") are recognized by their shape.
_ABBREVIATIONS = frozenset(
    ("mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "jr.", "vs.", "e.g.", "i.e.", "z.b.", "bzw.")
)
_JOINERS = frozenset("\u200d\ufe0e\ufe0f")


class Ending(IntEnum):
    """What a text unit ends: the lower, the better to break after."""

    SENTENCE = 0
    CLAUSE = 1
    WORD = 2


@dataclass(frozen=True, slots=True)
class Atom:
    """A unit of text that is never broken.

    Attributes:
        text: At least one character, no white space.
        width: Columns; East Asian wide characters take two, all others one.
        has_space: Whether a space precedes it if both are on one line.
        ending: What it ends.
    """

    text: str
    width: int
    has_space: bool
    ending: Ending


@dataclass(frozen=True, slots=True)
class Block:
    """Lines that are shown together.

    Attributes:
        lines: At least one, none empty.
        ending: What its last word ends.
        width: Columns of all its text, as if on one line.
    """

    lines: tuple[str, ...]
    ending: Ending
    width: int


def atoms(text: str, max_width: int) -> list[Atom]:
    """Cut text into units that are never broken; none is wider than `max_width` columns.

    Args:
        text: Any text; white space separates words.
        max_width: Columns, at least 2: one wide character.
    """
    out: list[Atom] = []
    for word in text.split():
        has_space = bool(out)
        for unit in _units(word):
            for part in _chopped(unit, max_width):
                out.append(Atom(part, _width(part), has_space, Ending.WORD))
                has_space = False
        # There is no sentence end inside a word, unless every character is a word.
        out[-1] = _with_ending(out[-1], word)
    return [
        _with_ending(atom, atom.text)
        if atom.ending is Ending.WORD and _is_wide(atom.text)
        else atom
        for atom in out
    ]


def sentences(words: Sequence[Atom]) -> list[Sequence[Atom]]:
    """Cut after each sentence."""
    out: list[Sequence[Atom]] = []
    begin = 0
    for at, atom in enumerate(words, 1):
        if atom.ending is Ending.SENTENCE or at == len(words):
            out.append(words[begin:at])
            begin = at
    return out


def width_of(words: Sequence[Atom]) -> int:
    """Return the columns of a text on one line."""
    return sum(atom.width + atom.has_space for atom in words) - bool(words and words[0].has_space)


def blocks(words: Sequence[Atom], max_width: int, max_lines: int) -> list[Block]:
    """Lay text out in blocks.

    Args:
        words: From `atoms` with the same width.
        max_width: Columns of a line.
        max_lines: Lines of a block, at least 1.
    """
    layout = _Layout(words, max_width)
    return [
        Block(layout.lines(begin, end), words[end - 1].ending, layout.width(begin, end))
        for begin, end in layout.block_bounds(max_lines)
    ]


class _Layout:
    """Bounds of lines and blocks over one text, by dynamic programming over its atoms."""

    __slots__ = ("_begins", "_ends", "_max_width", "_words")

    def __init__(self, words: Sequence[Atom], max_width: int) -> None:
        self._words = words
        self._max_width = max_width
        self._begins: list[int] = []
        self._ends: list[int] = []
        at = 0
        for atom in words:
            at += atom.has_space
            self._begins.append(at)
            at += atom.width
            self._ends.append(at)

    def width(self, begin: int, end: int) -> int:
        return self._ends[end - 1] - self._begins[begin]

    def block_bounds(self, max_lines: int) -> list[tuple[int, int]]:
        count, capacity = len(self._words), self._max_width * max_lines
        if count and self._line_count(0, count) <= max_lines:
            # One block costs less than any two.
            return [(0, count)]
        best = [0.0] + [float("inf")] * count
        cut_at = [0] * (count + 1)
        for begin in range(count):
            for end in self._block_ends(begin, max_lines):
                cost = best[begin] + _NEW_BLOCK_COST
                cost += _EMPTINESS_COST * (1 - self.width(begin, end) / capacity) ** 2
                if end < count:
                    cost += _BLOCK_COST[self._words[end - 1].ending]
                if cost < best[end]:
                    best[end], cut_at[end] = cost, begin
        return _walk_back(cut_at)

    def lines(self, begin: int, end: int) -> tuple[str, ...]:
        count = end - begin
        line_count = self._line_count(begin, end)
        if line_count == 1:
            return (self._text(begin, end),)
        target = self.width(begin, end) / line_count
        best = [0.0] + [float("inf")] * count
        chosen: list[list[int]] = []
        for _ in range(line_count):
            after = [float("inf")] * (count + 1)
            cut_at = [0] * (count + 1)
            for first in range(count):
                if best[first] == float("inf"):
                    continue
                for last in range(first + 1, count + 1):
                    width = self.width(begin + first, begin + last)
                    if width > self._max_width:
                        break
                    cost = best[first] + (width - target) ** 2
                    if last < count:
                        cost += _LINE_COST[self._words[begin + last - 1].ending]
                    if cost < after[last]:
                        after[last], cut_at[last] = cost, first
            best = after
            chosen.append(cut_at)
        out: list[str] = []
        last = count
        for cut_at in reversed(chosen):
            out.append(self._text(begin + cut_at[last], begin + last))
            last = cut_at[last]
        return tuple(reversed(out))

    def _block_ends(self, begin: int, max_lines: int) -> Iterator[int]:
        """Yield possible ends of a block that starts here: filling each line minimizes lines."""
        line_count, line_begin = 1, begin
        for end in range(begin + 1, len(self._words) + 1):
            if self.width(line_begin, end) > self._max_width:
                line_count, line_begin = line_count + 1, end - 1
                if line_count > max_lines:
                    return
            yield end

    def _line_count(self, begin: int, end: int) -> int:
        line_count, line_begin = 1, begin
        for at in range(begin + 1, end + 1):
            if self.width(line_begin, at) > self._max_width:
                line_count, line_begin = line_count + 1, at - 1
        return line_count

    def _text(self, begin: int, end: int) -> str:
        first, *rest = self._words[begin:end]
        return first.text + "".join(" " * atom.has_space + atom.text for atom in rest)


def _walk_back(cut_at: Sequence[int]) -> list[tuple[int, int]]:
    bounds: list[tuple[int, int]] = []
    end = len(cut_at) - 1
    while end > 0:
        bounds.append((cut_at[end], end))
        end = cut_at[end]
    bounds.reverse()
    return bounds


def _with_ending(atom: Atom, word: str) -> Atom:
    bare = word.rstrip(_QUOTES)
    last = bare[-1:]
    if last in _SENTENCE_ENDS and bare and not _is_abbreviation(bare):
        ending = Ending.SENTENCE
    elif last and last in _CLAUSE_ENDS:
        ending = Ending.CLAUSE
    else:
        return atom
    return Atom(atom.text, atom.width, atom.has_space, ending)


def _is_abbreviation(word: str) -> bool:
    return word.lower() in _ABBREVIATIONS or (len(word) == 2 and word[0].isupper())


def _units(word: str) -> Iterator[str]:
    """Cut a word before each wide character, unless punctuation must stay with its word."""
    if word.isascii():
        yield word
        return
    unit = ""
    for cluster in clusters(word):
        is_joint = _is_wide(cluster) or (unit != "" and _is_wide(unit))
        is_kept = cluster[0] in _CLOSING or (unit != "" and unit[-1] in _OPENING)
        if unit and is_joint and not is_kept:
            yield from _unspaced_words(unit)
            unit = ""
        unit += cluster
    yield from _unspaced_words(unit)


def _unspaced_words(unit: str) -> Iterator[str]:
    """Cut a unit without wide characters, which may be several words of an unspaced script."""
    return line_parts(unit) if has_unspaced_script(unit) else iter((unit,))


def _continues(before: str, character: str) -> bool:
    return (
        character in _JOINERS
        or before == "\u200d"
        or unicodedata.category(character) in ("Mn", "Mc", "Me")
        or 0x1F3FB <= ord(character) <= 0x1F3FF
    )


def _chopped(unit: str, max_width: int) -> Iterator[str]:
    if _width(unit) <= max_width:
        yield unit
        return
    part, part_width = "", 0
    for cluster in clusters(unit):
        # A tower of combining marks may alone be wider than a line; then it is split.
        for piece in [cluster] if _width(cluster) <= max_width else cluster:
            width = _width(piece)
            if part and part_width + width > max_width:
                yield part
                part, part_width = "", 0
            part += piece
            part_width += width
    yield part


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _is_wide(text: str) -> bool:
    """Return whether a text may be broken before and after its last base character.

    Korean is wide, but written with spaces.
    """
    if text.isascii():
        return False
    for character in reversed(text):
        if not _continues("", character):
            code = ord(character)
            is_korean = 0x1100 <= code <= 0x11FF or 0x3130 <= code <= 0x318F
            is_korean = is_korean or 0xAC00 <= code <= 0xD7AF
            return not is_korean and unicodedata.east_asian_width(character) in "WF"
    return False
