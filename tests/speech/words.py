"""How many words of a transcript are wrong.

Promises the usual word error rate: the fewest substitutions, insertions and deletions that turn the
reference into the transcript, over the reference's length. Case and punctuation do not count.
Refuses to know numbers, spellings and synonyms: "10" and "ten" differ.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclass(frozen=True, slots=True)
class WordErrors:
    """How many words are wrong, of how many that were said."""

    wrong: int
    said: int

    @property
    def rate(self) -> float:
        """Wrong words per word said; may exceed 1 when words are invented."""
        return self.wrong / self.said if self.said else float(self.wrong)

    def __str__(self) -> str:
        return f"{self.wrong} of {self.said} words wrong ({self.rate:.2%})"


def normal_words(text: str) -> list[str]:
    """Return the words of a text, lower case, without punctuation."""
    return _WORD.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def word_errors(said: str, heard: str) -> WordErrors:
    """Compare what was said with what was heard."""
    reference, transcript = normal_words(said), normal_words(heard)
    # One row of the edit distance's table: the distance of each start of the transcript from the
    # reference's words read so far.
    row = list(range(len(transcript) + 1))
    for read, word in enumerate(reference, start=1):
        diagonal, row[0] = row[0], read
        for column, other in enumerate(transcript, start=1):
            replaced = diagonal + (word != other)
            diagonal = row[column]
            row[column] = min(replaced, row[column] + 1, row[column - 1] + 1)
    return WordErrors(wrong=row[-1], said=len(reference))


def pooled(errors: Iterable[WordErrors]) -> WordErrors:
    """Add up many comparisons, so that long recordings weigh more than short ones."""
    listed = list(errors)
    return WordErrors(sum(e.wrong for e in listed), sum(e.said for e in listed))
