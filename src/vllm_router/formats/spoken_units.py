"""Cuts a text into the units of speech, with the time that each takes.

Promises: the units' texts add up to the text, except for white space; sentences and clauses end
only at the end of a unit, unless there are too many of them.

Bounds: linear in the text; returns at most the requested number of units.

Refuses to know: time and speakers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from vllm_router.formats.line_breaking import Ending, atoms
from vllm_router.formats.spoken_length import word_length
from vllm_router.formats.transcript import is_unspaced

# Wider than any word: this module does not break text by columns.
_ANY_WIDTH: Final = 1 << 20
# Added to each word: "a" takes more than a seventh of the time of "morning".
_WORD_LENGTH: Final = 1.5
_CHARACTER_LENGTH: Final = 0.1
# Speakers lengthen the last word of a sentence or clause (phrase-final lengthening).
_ENDING_LENGTH: Final = (6.0, 4.0, 0.0)


@dataclass(frozen=True, slots=True)
class Unit:
    """Text that is never split: usually one word, or one character of Chinese or Japanese.

    Attributes:
        text: At least one character.
        has_space: Whether white space precedes it.
        length: Spoken length, greater than 0.
        ending: What ends after it.
    """

    text: str
    has_space: bool
    length: float
    ending: Ending


def spoken_units(text: str, most: int) -> list[Unit]:
    """Return a text's units, in order.

    Args:
        text: Any text.
        most: The maximum number of units; in longer texts, neighbors are merged.
    """
    return _grouped(list(_units(text)), most)


def text_of(units: Sequence[Unit]) -> str:
    """Return the text of at least one unit, without space around it."""
    first, *rest = units
    return first.text + "".join(" " * unit.has_space + unit.text for unit in rest)


def _units(text: str) -> Iterator[Unit]:
    words = atoms(text, _ANY_WIDTH)
    for index, atom in enumerate(words):
        after = words[index + 1] if index + 1 < len(words) else None
        end = atom.ending
        if end is Ending.WORD and after is not None and after.has_space:
            # In a script without spaces between words, a space ends a phrase.
            is_phrase = is_unspaced(atom.text[-1]) and is_unspaced(after.text[0])
            end = Ending.CLAUSE if is_phrase else Ending.WORD
        length = word_length(atom.text) + _ENDING_LENGTH[end]
        # A character or word of an unspaced script is not separated from its neighbors.
        length += _CHARACTER_LENGTH if is_unspaced(atom.text[0]) else _WORD_LENGTH
        yield Unit(atom.text, atom.has_space, length, end)


def _grouped(units: list[Unit], most: int) -> list[Unit]:
    """Merge neighbors until at most `most` units are left.

    Ends of sentences and clauses stay ends of units as long as there are few of them.
    """
    if len(units) <= most:
        return units
    endings = sum(unit.ending is not Ending.WORD for unit in units)
    keeps_endings = 2 * endings <= most
    size = -(-len(units) // (most - endings)) if keeps_endings else -(-len(units) // most)
    out: list[Unit] = []
    begin = 0
    for at, unit in enumerate(units, 1):
        is_end = keeps_endings and unit.ending is not Ending.WORD
        if is_end or at - begin == size or at == len(units):
            group = units[begin:at]
            length = sum(each.length for each in group)
            out.append(Unit(text_of(group), group[0].has_space, length, unit.ending))
            begin = at
    return out
