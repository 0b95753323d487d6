"""How well the times of a transcript fit the speech.

A cue that begins with the first word of a clip must begin when the clip's speech does. Of a cue
that begins later in its clip only the neighbourhood is known: it must begin where there is sound,
or within reach of the next sound.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pysubs2
from tests.speech.recordings import Recording, Sentence
from tests.speech.words import aligned, normal_words

# The time given to eyes and ears: what starts within it seems to start together.
WITHIN_S = 0.3


@dataclass(frozen=True, slots=True)
class Cue:
    """Words and when they are shown, in seconds."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class CueAccuracy:
    """How many of the cues with words begin with the speech, and the largest miss in seconds."""

    near: int
    count: int
    worst_s: float

    @property
    def share(self) -> float:
        """Of all cues with words; 1 when there are none."""
        return self.near / self.count if self.count else 1.0

    def __str__(self) -> str:
        return f"{self.near} of {self.count} ({self.share:.1%}), worst {self.worst_s:.2f} s"


def read_subtitles(text: str, kind: str) -> list[Cue]:
    """Return the cues of an srt or vtt file."""
    events = pysubs2.SSAFile.from_string(text, format_=kind)
    return [Cue(e.start / 1000, e.end / 1000, e.plaintext.replace("\n", " ")) for e in events]


def cue_accuracy(
    cues: Iterable[Cue], recording: Recording, within_s: float = WITHIN_S
) -> CueAccuracy:
    """Compare when cues begin with when their words are said.

    Args:
        cues: In order.
        recording: What they are the words of.
        within_s: The largest miss that counts as near.
    """
    listed = [(cue, normal_words(cue.text)) for cue in cues]
    listed = [(cue, words) for cue, words in listed if words]
    misses = [
        _miss_s(cue, sentence, is_first)
        for (cue, _), (sentence, is_first) in zip(
            listed, _places([words for _, words in listed], recording), strict=True
        )
    ]
    return CueAccuracy(
        sum(miss <= within_s for miss in misses), len(misses), max(misses, default=0.0)
    )


def _places(
    cues: Sequence[Sequence[str]], recording: Recording
) -> list[tuple[Sentence | None, bool]]:
    """Return, for each cue, the sentence its first known word is in, and whether it begins it."""
    said: list[str] = []
    owners: list[tuple[Sentence, bool]] = []
    for sentence in recording.sentences:
        words = normal_words(sentence.text)
        said += words
        owners += [(sentence, at == 0) for at in range(len(words))]
    pairs = aligned(said, [word for words in cues for word in words])
    found = {theirs: mine for mine, theirs in pairs if theirs is not None and mine is not None}
    places: list[tuple[Sentence | None, bool]] = []
    at = 0
    for words in cues:
        known = next((found[i] for i in range(at, at + len(words)) if i in found), None)
        places.append((None, False) if known is None else owners[known])
        at += len(words)
    return places


def _miss_s(cue: Cue, sentence: Sentence | None, is_first: bool) -> float:
    if sentence is None:
        # Nothing of it was said: it can be nowhere right.
        return float("inf")
    if is_first or not sentence.stretches:
        return abs(cue.start_s - sentence.start_s)
    if cue.start_s < sentence.start_s or cue.start_s > sentence.end_s:
        return max(sentence.start_s - cue.start_s, cue.start_s - sentence.end_s)
    return min(
        0.0
        if start <= cue.start_s <= end
        else min(abs(cue.start_s - start), abs(cue.start_s - end))
        for start, end in sentence.stretches
    )
