"""Check a short upload's transcript against the speech in the upload.

A short upload is sent to an engine unchanged. If the transcript is implausible for the audio, or
the engine cannot read the container, the upload is decoded and transcribed in pieces like long
audio. If the client wants times, they are derived from the stretches of speech.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from typing import TypeVar

from vllm_router.audio.length import MeasuredSeconds
from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.errors import RouterError
from vllm_router.formats.alignment import aligned
from vllm_router.formats.coverage import (
    USUAL_PER_S,
    CoverageVerdict,
    better_transcript,
    check_coverage,
    is_thin,
)
from vllm_router.formats.language import result_language
from vllm_router.formats.spoken_length import spoken_length
from vllm_router.formats.transcript import Transcript, duration_usage, joined
from vllm_router.observability.request_record import RequestRecord, Task
from vllm_router.requests.options import ResponseOptions
from vllm_router.requests.pieces import PieceResult, SpeechMap
from vllm_router.requests.segmented import long_audio
from vllm_router.requests.services import Services
from vllm_router.requests.transcription_request import TranscriptionRequest
from vllm_router.server.exchange import Exchange
from vllm_router.spool.upload import Upload

_T = TypeVar("_T")


class SpeechCheck:
    """Checks one upload's transcript.

    Args:
        services: Shared services.
        exchange: The client's request.
        request: What was read from it.
        options: The requested response.
        record: The request's record.
        upload: The bytes.

    Attributes:
        told_s: The length stated by an engine, used if none is measured; None: none was stated.
    """

    def __init__(
        self,
        services: Services,
        exchange: Exchange,
        request: TranscriptionRequest,
        options: ResponseOptions,
        record: RequestRecord,
        upload: Upload,
    ) -> None:
        self._services = services
        self._exchange = exchange
        self._request = request
        self._options = options
        self._record = record
        self._upload = upload
        self._measuring: asyncio.Task[None] | None = None
        self.told_s: MeasuredSeconds | None = None

    def may_lack_words(self, text: str) -> bool:
        """Return whether a transcript is short enough for the upload's length to need a check."""
        if not self._services.rules.verifies:
            return False
        length_s = self._record.audio_s
        return is_thin(text, self._request.hint.seconds if length_s is None else length_s)

    async def length(self) -> MeasuredSeconds | None:
        """Return the upload's length, by decoding it if it is still unknown."""
        if self._record.audio_s is None:
            await (self._measuring or self._measure())
            if self._record.audio_s is None:
                self._record.audio_s = self.told_s
        return self._record.audio_s

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Measure the upload's length, if it is unknown, while the block runs."""
        if self._record.audio_s is None:
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
            length_s = await self._services.fanout.length_s(
                self._request, file, self._record.damaged
            )
        finally:
            os.close(file)
        if self._record.audio_s is None:
            self._record.audio_s = length_s

    async def speech(self) -> SpeechMap | None:
        """Return the stretches of speech; None: they cannot be determined."""
        if not self._services.rules.verifies:
            return None
        file = self._upload.file()
        try:
            found = await self._services.fanout.speech(self._request, file)
        finally:
            os.close(file)
        if found is not None:
            self._record.audio_s = found.length_s
            self._record.damaged(found.damage)
        return found

    async def beside_speech(self, asking: Awaitable[_T]) -> tuple[_T, SpeechMap | None]:
        """Return the result of a call and the stretches of speech, obtained concurrently.

        Detecting the speech takes a fraction of the time that an engine takes to answer.
        """
        looking = asyncio.get_running_loop().create_task(self.speech())
        try:
            answer = await asking
            return answer, await looking
        finally:
            looking.cancel()
            await asyncio.wait([looking])

    async def checked(self, answer: Transcript, found: SpeechMap | None) -> Transcript:
        """Return a transcript, replaced by a second one if it is implausible and that is better.

        Args:
            answer: The engine's transcript of the whole upload.
            found: Stretches of speech; None: unknown, and the transcript is accepted.
        """
        if found is None:
            return answer
        record, speech = self._record, found.spans
        verdict = check_coverage(answer.text, speech)
        record.speech_s = found.speech_s
        record.is_verified = True
        if verdict is CoverageVerdict.COVERED:
            record.covered_s = found.speech_s
            return answer
        if verdict is CoverageVerdict.UNSPOKEN:
            self._services.counts.dropped("unspoken", len(answer.text.split()))
            return replace(answer, text="")
        self._services.counts.reheard(self._request.model, verdict.value, found.length_s)
        record.speech_s = 0.0
        try:
            second = await self.in_pieces()
        except RouterError:
            # The first transcript is still valid.
            record.speech_s, record.covered_s = found.speech_s, 0.0
            return answer
        if not answer.text and not second.text:
            self._services.counts.note_empty(self._request.model, record)
        return (
            second if better_transcript(answer.text, second.text, speech) != answer.text else answer
        )

    async def in_pieces(self, *, skip_silence: bool = True) -> Transcript:
        """Return the transcript of the upload, decoded and transcribed in pieces.

        Args:
            skip_silence: Whether to send only speech, if the router's rules say so.

        Raises:
            UnreadableAudio: It cannot be decoded.
            RouterError: It could not be transcribed.
        """
        parts: list[Transcript] = []

        async def keep(heard: PieceResult) -> None:
            if heard.transcript is not None:
                parts.append(heard.transcript)

        file = self._upload.file()
        try:
            audio = long_audio(
                self._services, self._exchange, self._request, self._options, self._record, file
            )
            # Short audio must be complete: its first transcript is better than a partial one.
            audio.partial_ok = False
            audio.skip_silence = audio.skip_silence and skip_silence
            length_s = await self._services.fanout.hear(audio, keep)
        finally:
            os.close(file)
        self._record.audio_s = length_s
        whole = joined(parts, round(length_s, 3))
        return replace(whole, language=audio.language or audio.votes.language)

    async def timed(self, answer: Transcript, found: SpeechMap | None) -> Transcript:
        """Return a transcript with segments, and with the upload's language and length.

        Args:
            answer: The transcript; existing segments are kept.
            found: Stretches of speech; None: unknown, and words are spread over the whole audio.
        """
        named = [self._options.language, answer.language]
        guess = None
        if named == [None, None] and self._request.task is Task.TRANSCRIBE:
            guess = await self._services.languages.identify(answer.text)
        length_s: float | None = found.length_s if found is not None else await self.length()
        if length_s is None:
            length_s = answer.duration_s
        segments = answer.segments
        if not segments and answer.text:
            spans = found.spans if found is not None and found.spans else ()
            # Without any known length, use the time that it takes to say the words.
            whole = SpeechSpan(0.0, length_s or spoken_length(answer.text) / USUAL_PER_S)
            segments = aligned(answer.text, spans or (whole,))
        return replace(
            answer,
            language=result_language(named, guess),
            segments=segments,
            duration_s=None if length_s is None else round(length_s, 3),
            usage=duration_usage(length_s) or answer.usage,
        )
