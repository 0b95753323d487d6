"""The language of an audio whose pieces were transcribed in whatever language each engine detected.

A piece's language is settled once enough of its neighbours' are known: a dial tone or one odd
sentence must not decide the whole, and a second language that is really spoken must stay.
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
    """Tells the languages of texts, with a model that is loaded when it is first needed."""

    __slots__ = ("_loading",)

    def __init__(self) -> None:
        self._loading: asyncio.Future[TextIdentifier | None] | None = None

    async def identify(self, text: str) -> Identified | None:
        """Return the language of a text; None where its words do not tell."""
        if not text:
            return None
        if self._loading is None:
            loop = asyncio.get_running_loop()
            # In a thread: it takes half a second of computing.
            self._loading = loop.run_in_executor(None, _load)
        identifier = await asyncio.shield(self._loading)
        return None if identifier is None else identifier.identify(text)


@cache
def _load() -> TextIdentifier | None:
    """Return the model, which never changes and takes 90 MB: one for all routers of a process."""
    try:
        return TextIdentifier()
    except OSError as e:
        log.error("languages cannot be identified: %s", e)
        return None


class LanguageVotes:
    """Collects the languages of one audio's pieces, by index, and settles each piece's."""

    __slots__ = ("_count", "_heard", "_vote", "_waiting")

    def __init__(self) -> None:
        self._vote = LanguageVote()
        self._heard: set[int] = set()
        self._count: int | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def language(self) -> str | None:
        """The audio's language by what is known so far; None: nothing is."""
        return self._vote.majority

    def note(self, index: int, language: str | None, confidence: float, speech_s: float) -> None:
        """Take a piece's language in, once; None: its words do not tell, or there are none."""
        if index in self._heard:
            return
        self._heard.add(index)
        self._vote.hear(index, LanguageSample(language, confidence, speech_s))
        self._wake()

    def end(self, count: int) -> None:
        """Note that the audio has so many pieces."""
        self._count = count
        self._vote.finish(count)
        self._wake()

    async def settled(self, index: int) -> str | None:
        """Wait until the language of a piece that was noted is settled.

        Returns:
            The language in which the piece is to be asked for again; None: it stays as it is.
        """
        while (choice := self._vote.choose(index)) is LanguageChoice.WAIT:
            await self._changed()
        return self._vote.majority if choice is LanguageChoice.ASK_AGAIN else None

    async def known(self, pieces: int) -> None:
        """Wait until so many pieces are noted, or all that there are."""
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
