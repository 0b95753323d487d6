"""Converts speech probabilities, one per frame, to speech spans.

Promises: the same spans regardless of how the frames arrive. A span is returned in parts while it
lasts, each beginning where the previous one ended, so that no caller waits for its end.
Refuses to know: the source of the probabilities.
"""

from collections.abc import Iterable
from typing import Final

# The thresholds that silero's authors recommend: lower ones extend spans into the noise after
# them, higher ones lose the ends of words.
ON: Final = 0.5
OFF: Final = 0.35


class SpanFinder:
    """Finds spans in frames that arrive incrementally; positions are frame numbers.

    Args:
        shortest: Frames; anything shorter is a knock or a click, not speech.
        shortest_pause: Frames; shorter pauses occur within words.
    """

    def __init__(self, *, shortest: int, shortest_pause: int) -> None:
        self._shortest = shortest
        self._shortest_pause = shortest_pause
        self.at = 0
        self._begin: int | None = None
        self._end: int | None = None
        self._is_long = False

    def __repr__(self) -> str:
        return f"<SpanFinder at frame {self.at}, {self.known} known>"

    @property
    def known(self) -> int:
        """The frame before which no more speech will be found."""
        return self.at if self._begin is None else self._begin

    def feed(self, probabilities: Iterable[float]) -> list[tuple[int, int]]:
        """Take the next frames; return the spans, or parts of one, that they decide."""
        found: list[tuple[int, int]] = []
        for probability in probabilities:
            if probability >= ON:
                if self._begin is None:
                    self._begin = self.at
                self._end = None
            elif self._begin is not None and (self._end is not None or probability < OFF):
                if self._end is None:
                    self._end = self.at
                if self.at + 1 - self._end >= self._shortest_pause:
                    found += self._closed()
            self.at += 1
        return found + self._so_far()

    def flush(self) -> list[tuple[int, int]]:
        """Return the span that the audio's end cuts off."""
        return self._closed()

    def _so_far(self) -> list[tuple[int, int]]:
        begin, end = self._begin, self.at if self._end is None else self._end
        if begin is None or begin == end or not (self._is_long or end - begin >= self._shortest):
            return []
        self._is_long = True
        self._begin = end
        return [(begin, end)]

    def _closed(self) -> list[tuple[int, int]]:
        found = self._so_far()
        self._begin = self._end = None
        self._is_long = False
        return found
