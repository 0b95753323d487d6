"""Figures of many answers, added up, as one table; and that table's place in a document."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.fidelity.ask import Answer
from tests.speech.cues import CueAccuracy, cue_accuracy
from tests.speech.recordings import Recording
from tests.speech.words import WordErrors, pooled, word_errors

HEAD = ("recording", "asked", "words wrong", "worst", "lost", "invented", "cues", "windows", "s")
NONE = "–"


@dataclass(frozen=True, slots=True)
class Figure:
    """How one answer did."""

    errors: WordErrors
    cues: CueAccuracy | None
    windows: float | None
    seconds: float
    refusal: str


@dataclass(frozen=True, slots=True)
class Row:
    """All answers of one kind of recording, asked for in one way."""

    case: str
    way: str
    figures: tuple[Figure, ...]

    def cells(self) -> tuple[str, ...]:
        """Return the table's cells; those of a row that was refused say so."""
        refusals = [figure.refusal for figure in self.figures if figure.refusal]
        if refusals:
            told = f"refused ({refusals[0]})"
            if len(refusals) < len(self.figures):
                told = f"{len(refusals)} of {len(self.figures)} {told}"
            return (self.case, self.way, told, *[NONE] * (len(HEAD) - 3))
        errors = [figure.errors for figure in self.figures]
        total = pooled(errors)
        rated = [each.rate for each in errors if each.said]
        return (
            self.case,
            self.way,
            f"{total.rate:.2%}" if total.said else f"{total.wrong} words",
            f"{max(rated):.1%}" if len(rated) > 1 else NONE,
            str(total.lost),
            str(total.invented),
            self._cues(),
            self._windows(),
            f"{sum(figure.seconds for figure in self.figures):.0f}",
        )

    def _cues(self) -> str:
        found = [figure.cues for figure in self.figures if figure.cues is not None]
        count = sum(each.count for each in found)
        return f"{sum(each.near for each in found) / count:.1%}" if count else NONE

    def _windows(self) -> str:
        counted = [figure.windows for figure in self.figures if figure.windows is not None]
        return f"{sum(counted):.0f}" if len(counted) == len(self.figures) else NONE


def judged(recording: Recording, answer: Answer) -> Figure:
    """Compare an answer with the truth."""
    return Figure(
        word_errors(recording.text, answer.text),
        None if answer.cues is None else cue_accuracy(answer.cues, recording),
        answer.windows,
        answer.seconds,
        answer.refusal,
    )


def markdown(rows: Iterable[Row]) -> str:
    """Return the table as Markdown, its columns aligned for reading as plain text, too."""
    lines: list[Sequence[str]] = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(HEAD))]
    lines.insert(1, [width * "-" for width in widths])
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def placed(document: str, made: str) -> str:
    """Return a document with its section `<!-- measured: fidelity -->` replaced.

    Raises:
        ValueError: There is no such section.
    """
    section = re.compile(r"(<!-- measured: fidelity -->\n).*?(<!-- end -->)", re.DOTALL)
    if not section.search(document):
        raise ValueError("the document has no section <!-- measured: fidelity -->")
    return section.sub(lambda found: f"{found[1]}{made}\n{found[2]}", document)
