"""The language of audio whose pieces were transcribed in the language that each engine detected.

A piece's language is settled once enough of its neighbors' languages are known: a dial tone or one
odd sentence must not decide for the whole audio, and a second language that is spoken must remain.
"""

from __future__ import annotations

import asyncio
import logging
from functools import cache

from vllm_router.formats.language import (
    Identified,
    LanguageChoice,
    LanguageSample,
    LanguageVote,
    TextIdentifier,
)

log = logging.getLogger(__name__)


class LanguageFinder:
    """Identifies the language of texts with a model that is loaded on first use."""

    __slots__ = ("_loading",)

    def __init__(self) -> None:
        self._loading: asyncio.Future[TextIdentifier | None] | None = None

    async def identify(self, text: str) -> Identified | None:
        """Return the language of a text; None: its words do not reveal it."""
        if not text:
            return None
        if self._loading is None:
            loop = asyncio.get_running_loop()
            # In a thread: loading takes half a second of CPU time.
            self._loading = loop.run_in_executor(None, _load)
        identifier = await asyncio.shield(self._loading)
        return None if identifier is None else identifier.identify(text)


@cache
def _load() -> TextIdentifier | None:
    """Return the model; it is immutable and takes 90 MB, so a process loads it once."""
    try:
        return TextIdentifier()
    except OSError as e:
        log.error("languages cannot be identified: %s", e)
        return None


class LanguageVotes:
    """Collects the languages of one audio's pieces, by index, and settles each piece's language."""

    __slots__ = ("_count", "_heard", "_vote", "_waiting")

    def __init__(self) -> None:
        self._vote = LanguageVote()
        self._heard: set[int] = set()
        self._count: int | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def language(self) -> str | None:
        """The audio's most likely language so far; None: unknown."""
        return self._vote.majority

    def note(self, index: int, language: str | None, confidence: float, speech_s: float) -> None:
        """Record a piece's language, once; None: its words do not reveal it, or it has none."""
        if index in self._heard:
            return
        self._heard.add(index)
        self._vote.hear(index, LanguageSample(language, confidence, speech_s))
        self._wake()

    def end(self, count: int) -> None:
        """Note the total number of pieces."""
        self._count = count
        self._vote.finish(count)
        self._wake()

    async def settled(self, index: int) -> str | None:
        """Wait until the language of a recorded piece is settled.

        Returns:
            The language in which to transcribe the piece again; None: it stays as it is.
        """
        while (choice := self._vote.choose(index)) is LanguageChoice.WAIT:
            await self._changed()
        return self._vote.majority if choice is LanguageChoice.ASK_AGAIN else None

    async def known(self, pieces: int) -> None:
        """Wait until this many pieces are recorded, or all of them if there are fewer."""
        while len(self._heard) < pieces and self._count != len(self._heard):
            await self._changed()

    async def _changed(self) -> None:
        change = asyncio.get_running_loop().create_future()
        self._waiting.add(change)
        try:
            await change
        finally:
            self._waiting.discard(change)

    def _wake(self) -> None:
        for change in self._waiting:
            if not change.done():
                change.set_result(None)
