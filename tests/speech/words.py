"""How many words of a transcript are wrong.

Promises the usual word error rate: the fewest substitutions, insertions and deletions that turn the
reference into the transcript, over the reference's length. Case, punctuation and hyphens do not
count, and "Mr." is "mister". Refuses to know numbers, spellings and synonyms: "10" and "ten"
differ.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
# What the index of the recordings spells out, and Whisper does not.
_SPELLED_OUT = {"mr": "mister", "mrs": "missus", "dr": "doctor"}

# What was done to a word of the reference, in the table of edits.
_KEPT, _LOST, _INVENTED = range(3)


@dataclass(frozen=True, slots=True)
class WordErrors:
    """How many words are wrong, of how many that were said.

    `lost` words have nothing in their place, `invented` ones stand where nothing was said; the rest
    of the wrong ones were replaced.
    """

    wrong: int
    said: int
    lost: int = 0
    invented: int = 0

    @property
    def rate(self) -> float:
        """Wrong words per word said; may exceed 1 when words are invented."""
        return self.wrong / self.said if self.said else float(self.wrong)

    def __str__(self) -> str:
        return f"{self.wrong} of {self.said} words wrong ({self.rate:.2%}; {self.lost} lost)"


def normal_words(text: str) -> list[str]:
    """Return the words of a text, lower case, without punctuation."""
    found = _WORD.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return [_SPELLED_OUT.get(word, word) for word in found]


def word_errors(said: str, heard: str) -> WordErrors:
    """Compare what was said with what was heard."""
    reference, transcript = normal_words(said), normal_words(heard)
    wrong = lost = invented = 0
    for mine, theirs in aligned(reference, transcript):
        if mine is None:
            invented += 1
        elif theirs is None:
            lost += 1
        wrong += mine is None or theirs is None or reference[mine] != transcript[theirs]
    return WordErrors(wrong, len(reference), lost, invented)


def aligned(
    reference: Sequence[str], transcript: Sequence[str]
) -> list[tuple[int | None, int | None]]:
    """Pair the words of two texts with the fewest edits.

    Returns:
        Indexes into both, in order; None where one text has nothing for a word of the other.
    """
    # One row of costs at a time, and a byte for each edit that was the cheapest.
    row = list(range(len(transcript) + 1))
    edits = [bytearray([_INVENTED]) * len(row)]
    for read, word in enumerate(reference, start=1):
        chosen = bytearray([_LOST]) * len(row)
        diagonal, row[0] = row[0], read
        for column, other in enumerate(transcript, start=1):
            least = diagonal + (word != other)
            edit = _KEPT
            diagonal = row[column]
            if diagonal + 1 < least:
                least, edit = diagonal + 1, _LOST
            if row[column - 1] + 1 < least:
                least, edit = row[column - 1] + 1, _INVENTED
            row[column] = least
            chosen[column] = edit
        edits.append(chosen)
    return list(_walk_back(edits))[::-1]


def _walk_back(edits: Sequence[bytearray]) -> Iterator[tuple[int | None, int | None]]:
    mine, theirs = len(edits) - 1, len(edits[0]) - 1
    while mine or theirs:
        edit = edits[mine][theirs]
        mine -= edit != _INVENTED
        theirs -= edit != _LOST
        yield (
            None if edit == _INVENTED else mine,
            None if edit == _LOST else theirs,
        )


def pooled(errors: Iterable[WordErrors]) -> WordErrors:
    """Add up many comparisons, so that long recordings weigh more than short ones."""
    listed = list(errors)
    return WordErrors(
        sum(e.wrong for e in listed),
        sum(e.said for e in listed),
        sum(e.lost for e in listed),
        sum(e.invented for e in listed),
    )
