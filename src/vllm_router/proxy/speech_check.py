"""A short upload's answer held against the speech in the upload.

A short upload goes to an engine as it came. Where the engine's answer is implausible for the sound
in it, or the engine cannot read its container, the upload is decoded and transcribed in pieces like
long audio; and where the client wants times, they are derived from where somebody speaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from typing import TypeVar

from vllm_router.errors import RouterError
from vllm_router.inbound.exchange import Exchange
from vllm_router.outbound.upload import Upload
from vllm_router.proxy.facts import RequestFacts, Task
from vllm_router.proxy.long import long_audio
from vllm_router.proxy.means import Means
from vllm_router.proxy.pieces import Heard, SpeechMap
from vllm_router.proxy.story import Story
from vllm_router.proxy.wish import Wish
from vllm_router.wire.alignment import aligned
from vllm_router.wire.coverage import USUAL_PER_S, Verdict, better, is_thin, judge
from vllm_router.wire.language import result_language
from vllm_router.wire.length import MeasuredSeconds
from vllm_router.wire.speech import Span
from vllm_router.wire.spoken_length import spoken_length
from vllm_router.wire.transcript import Transcript, duration_usage, joined

_T = TypeVar("_T")


class SpeechCheck:
    """Checks one upload's answer.

    Args:
        means: What answers are made with.
        exchange: The client's request.
        facts: What is known of it.
        wish: What is asked for.
        story: Its record.
        upload: The bytes.
    """

    def __init__(
        self,
        means: Means,
        exchange: Exchange,
        facts: RequestFacts,
        wish: Wish,
        story: Story,
        upload: Upload,
    ) -> None:
        self._means = means
        self._exchange = exchange
        self._facts = facts
        self._wish = wish
        self._story = story
        self._upload = upload
        self._measuring: asyncio.Task[None] | None = None

    def may_lack_words(self, text: str) -> bool:
        """Return whether an answer is so thin for the upload's length that it is worth a look."""
        if not self._means.rules.verifies:
            return False
        length_s = self._story.audio_s
        return is_thin(text, self._facts.hint.seconds if length_s is None else length_s)

    async def length(self) -> MeasuredSeconds | None:
        """Return the upload's length, by decoding it where nothing has told it yet."""
        if self._story.audio_s is None:
            await (self._measuring or self._measure())
        return self._story.audio_s

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Find the upload's length, where nothing tells it, while the block does other things."""
        if self._story.audio_s is None:
            self._measuring = asyncio.get_running_loop().create_task(self._measure())
        try:
            yield
        finally:
            if self._measuring is not None:
                self._measuring.cancel()
                self._measuring = None

    async def _measure(self) -> None:
        file = self._upload.file()
        try:
            length_s = await self._means.fanout.length_s(self._facts, file)
        finally:
            os.close(file)
        if self._story.audio_s is None:
            self._story.audio_s = length_s

    async def speech(self) -> SpeechMap | None:
        """Return where somebody speaks; None: that cannot be found out."""
        if not self._means.rules.verifies:
            return None
        file = self._upload.file()
        try:
            found = await self._means.fanout.speech(self._facts, file)
        finally:
            os.close(file)
        if found is not None:
            self._story.audio_s = found.length_s
            self._story.damaged(found.damage)
        return found

    async def beside_speech(self, asking: Awaitable[_T]) -> tuple[_T, SpeechMap | None]:
        """Return what was asked for and where somebody speaks, both had at the same time.

        To find the speech takes a fraction of an engine's answer.
        """
        looking = asyncio.get_running_loop().create_task(self.speech())
        try:
            answer = await asking
            return answer, await looking
        finally:
            looking.cancel()
            await asyncio.wait([looking])

    async def checked(self, answer: Transcript, found: SpeechMap | None) -> Transcript:
        """Return an answer's words, from another transcription where they are implausible.

        Args:
            answer: The engine's, of the whole upload.
            found: Where somebody speaks; None: unknown, the answer is taken as it is.
        """
        if found is None:
            return answer
        story, speech = self._story, found.spans
        verdict = judge(answer.text, speech)
        story.speech_s = found.speech_s
        story.is_verified = True
        if verdict is Verdict.COVERED:
            story.covered_s = found.speech_s
            return answer
        if verdict is Verdict.UNSPOKEN:
            self._means.counts.dropped("unspoken", len(answer.text.split()))
            return replace(answer, text="")
        self._means.counts.reheard(self._facts.model, verdict.value, found.length_s)
        story.speech_s = 0.0
        try:
            second = await self.in_pieces()
        except RouterError:
            # The upload has been transcribed, after all.
            story.speech_s, story.covered_s = found.speech_s, 0.0
            return answer
        if not answer.text and not second.text:
            self._means.counts.note_empty(self._facts.model, story)
        return second if better(answer.text, second.text, speech) != answer.text else answer

    async def in_pieces(self, *, skip_silence: bool = True) -> Transcript:
        """Return the words of the upload, decoded and transcribed in pieces.

        Args:
            skip_silence: Whether only speech is sent, where the router's rules are so.

        Raises:
            UnreadableAudio: It cannot be decoded.
            RouterError: The words could not be had.
        """
        parts: list[Transcript] = []

        async def keep(heard: Heard) -> None:
            if heard.transcript is not None:
                parts.append(heard.transcript)

        file = self._upload.file()
        try:
            audio = long_audio(
                self._means, self._exchange, self._facts, self._wish, self._story, file
            )
            # What is short is had whole or not at all: its first answer is better than a part.
            audio.partial_ok = False
            audio.skip_silence = audio.skip_silence and skip_silence
            length_s = await self._means.fanout.hear(audio, keep)
        finally:
            os.close(file)
        self._story.audio_s = length_s
        whole = joined(parts, round(length_s, 3))
        return replace(whole, language=audio.language or audio.votes.language)

    async def timed(self, answer: Transcript, found: SpeechMap | None) -> Transcript:
        """Return an answer with segments, and with the upload's language and length.

        Args:
            answer: The words; segments that it has already are kept.
            found: Where somebody speaks; None: unknown, the words are spread over the whole.
        """
        named = [self._wish.language, answer.language]
        guess = None
        if named == [None, None] and self._facts.task is Task.TRANSCRIBE:
            guess = await self._means.languages.identify(answer.text)
        length_s = found.length_s if found is not None else answer.duration_s
        if length_s is None:
            length_s = await self.length()
        segments = answer.segments
        if not segments and answer.text:
            spans = found.spans if found is not None and found.spans else ()
            # Without any length, as long as it takes to say it.
            whole = Span(0.0, length_s or spoken_length(answer.text) / USUAL_PER_S)
            segments = aligned(answer.text, spans or (whole,))
        return replace(
            answer,
            language=result_language(named, guess),
            segments=segments,
            duration_s=None if length_s is None else round(length_s, 3),
            usage=duration_usage(length_s) or answer.usage,
        )
