"""The transcript of one piece, verified against the speech in it.

A 200 from an engine does not guarantee a correct transcript: Whisper occasionally omits a sentence
or most of a window, repeats itself, or invents words in silence. If a transcript is implausible for
the piece's speech, the piece is transcribed again in two parts, which repairs the most for the
least work (docs/fidelity.md), and the better transcript wins. Bounds: `LongAudio.may_ask_again` and
`DEPTH`.

Does not know the order of pieces, formats, or clients.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import Final

from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.errors import RouterError
from vllm_router.formats.alignment import aligned
from vllm_router.formats.coverage import (
    CoverageVerdict,
    better_transcript,
    check_coverage,
    joined_at_cut,
    speaking_rate,
    speech_length_s,
    usual_rate,
)
from vllm_router.formats.language import language_code
from vllm_router.formats.snapping import snapped
from vllm_router.formats.transcript import Transcript, join_texts, joined
from vllm_router.requests.language_votes import LanguageFinder
from vllm_router.requests.piece_call import PieceCaller, PieceFailed
from vllm_router.requests.pieces import LongAudio, SpooledPiece
from vllm_router.requests.word_counts import WordCounts
from vllm_router.scheduling.work import WorkTrace, windows_of

#: How often a piece may be halved.
DEPTH: Final = 2
#: Seconds of speech below which the speaking rate is unreliable.
RATE_FROM_S: Final = 5.0
#: Pieces from which the usual speaking rate is derived, if there are as many; fewer if a client
#: reads the stream. Must stay below `fanout.AHEAD`, or pieces would wait for each other.
COMPARED_PIECES: Final = 32
READ_ALONG_PIECES: Final = 4
#: For a part that cannot be halved: enough to leave the decoding path that lost words.
SECOND_TEMPERATURE: Final = 0.2


@dataclass(frozen=True, slots=True)
class TranscribedPart:
    """A part of a piece, and its transcript.

    Attributes:
        speech: Stretches of speech, in the whole audio's time.
        answer: The engine's transcript.
        verdict: Whether the transcript is plausible for the speech.
    """

    speech: tuple[SpeechSpan, ...]
    answer: Transcript
    verdict: CoverageVerdict

    @property
    def speech_s(self) -> float:
        """Seconds of speech."""
        return speech_length_s(self.speech)


class PieceTranscriber:
    """Transcribes pieces.

    Args:
        caller: Calls engines.
        languages: Identifies the languages of texts.
        counts: Counts words.
    """

    def __init__(self, caller: PieceCaller, languages: LanguageFinder, counts: WordCounts) -> None:
        self._caller = caller
        self._languages = languages
        self._counts = counts

    async def transcribe(
        self, audio: LongAudio, piece: SpooledPiece, trace: WorkTrace | None
    ) -> Transcript:
        """Return a piece's words and segments, in the whole audio's time.

        Raises:
            RouterError: The piece could not be transcribed.
        """
        audio.sent(windows_of(piece.length_s))
        failure: PieceFailed | None = None
        try:
            first = await self._caller.ask(audio, piece, trace)
        except PieceFailed as e:
            # vLLM answers 500 if the model produces nothing, also when it detects the language.
            # The same audio may succeed in parts, or with a given language.
            failure, first = e, Transcript("")
            language = audio.votes.language if audio.detects_language else None
            if language is not None and self._caller.takes_language(audio):
                with contextlib.suppress(RouterError):
                    first = await self._caller.ask(audio, piece, trace, language=language)
        if audio.wants_words:
            return snapped(piece.on_the_audio(first), piece.speech)
        parts = await self._verified(audio, piece, trace, first, DEPTH)
        await self._note_language(audio, piece, parts)
        if not (audio.is_stream and piece.index == 0):
            # A stream's first words do not wait for other pieces.
            parts = await self._in_the_right_language(audio, piece, trace, parts)
            if audio.verifies:
                parts = await self._compared(audio, piece, trace, parts)
        if failure is not None and not any(part.answer.text for part in parts):
            raise failure
        audio.record.is_verified = audio.verifies
        for part in parts:
            audio.record.speech_s += part.speech_s
            if part.verdict is CoverageVerdict.COVERED:
                audio.record.covered_s += part.speech_s
        return _put_together(piece, parts)

    async def _verified(
        self,
        audio: LongAudio,
        piece: SpooledPiece,
        trace: WorkTrace | None,
        first: Transcript,
        depth: int,
    ) -> list[TranscribedPart]:
        if not audio.verifies:
            return [TranscribedPart(piece.speech, first, CoverageVerdict.COVERED)]
        verdict = check_coverage(first.text, piece.speech, audio.rates)
        own = TranscribedPart(piece.speech, first, verdict)
        if verdict is CoverageVerdict.COVERED:
            if own.speech_s >= RATE_FROM_S:
                audio.rates.append(speaking_rate(first.text, piece.speech))
            return [own]
        if verdict is CoverageVerdict.UNSPOKEN:
            return [self._without_words(own)]
        halves = piece.halves() if depth else None
        windows = windows_of(piece.length_s) if halves is None else _windows(halves)
        if not depth or not audio.may_ask_again(windows):
            return [own]
        self._counts.reheard(audio.request.model, verdict.value, piece.length_s)
        try:
            if halves is None:
                again = [await self._once_more(audio, piece, trace, first)]
            else:
                again = await self._in_parts(audio, halves, trace, depth - 1)
        except RouterError:
            # The first transcript is still valid.
            audio.asked_again(has_helped=False)
            return [own]
        second = join_texts(part.answer.text for part in again)
        has_helped = better_transcript(first.text, second, piece.speech, audio.rates) != first.text
        audio.asked_again(has_helped=has_helped)
        return again if has_helped else [own]

    async def _once_more(
        self, audio: LongAudio, piece: SpooledPiece, trace: WorkTrace | None, first: Transcript
    ) -> TranscribedPart:
        answer = await self._caller.ask(
            audio, piece, trace, language=first.language, temperature=SECOND_TEMPERATURE
        )
        part = TranscribedPart(
            piece.speech, answer, check_coverage(answer.text, piece.speech, audio.rates)
        )
        return self._without_words(part) if part.verdict is CoverageVerdict.UNSPOKEN else part

    async def _in_parts(
        self,
        audio: LongAudio,
        halves: tuple[SpooledPiece, SpooledPiece],
        trace: WorkTrace | None,
        depth: int,
    ) -> list[TranscribedPart]:
        async def one(half: SpooledPiece) -> list[TranscribedPart]:
            answer = await self._caller.ask(audio, half, trace)
            return await self._verified(audio, half, trace, answer, depth)

        asked = [asyncio.ensure_future(one(half)) for half in halves]
        try:
            before, after = await asyncio.gather(*asked)
        finally:
            # The piece's samples are released when this ends: nothing may read them later.
            for each in asked:
                each.cancel()
            await asyncio.wait(asked)
        last, first = before[-1], after[0]
        both = join_texts((last.answer.text, first.answer.text))
        once = joined_at_cut(
            last.answer.text, first.answer.text, (*last.speech, *first.speech), audio.rates
        )
        if once != both:
            # Words doubled by the cut stay where they were said first.
            rest = once[len(last.answer.text) :].strip()
            after[0] = replace(first, answer=replace(first.answer, text=rest))
        return [*before, *after]

    def _without_words(self, part: TranscribedPart) -> TranscribedPart:
        words = len(part.answer.text.split())
        if words:
            self._counts.dropped("unspoken", words)
        return replace(part, answer=Transcript("", language=part.answer.language))

    async def _compared(
        self,
        audio: LongAudio,
        piece: SpooledPiece,
        trace: WorkTrace | None,
        parts: list[TranscribedPart],
    ) -> list[TranscribedPart]:
        """Check a piece again once other pieces have established the usual speaking rate.

        A single missing sentence is noticed only by comparison.
        """
        await audio.votes.known(READ_ALONG_PIECES if audio.is_stream else COMPARED_PIECES)
        if len(parts) != 1 or parts[0].verdict is not CoverageVerdict.COVERED:
            return parts
        if usual_rate(audio.rates) is None:
            return parts
        return await self._verified(audio, piece, trace, parts[0].answer, DEPTH)

    async def _note_language(
        self, audio: LongAudio, piece: SpooledPiece, parts: list[TranscribedPart]
    ) -> None:
        """Vote for a piece's language, and release the pieces that wait for this one."""
        text = join_texts(part.answer.text for part in parts)
        language, confidence = None, 0.0
        if text and audio.detects_language:
            named = [language_code(part.answer.language) for part in parts]
            language = next((code for code in named if code is not None), None)
            confidence = 1.0
            if language is None and (found := await self._languages.identify(text)) is not None:
                language, confidence = found.language, found.confidence
        speech_s = sum(part.speech_s for part in parts)
        audio.votes.note(piece.index, language, confidence, speech_s)
        audio.end_lead(piece.index)

    async def _in_the_right_language(
        self,
        audio: LongAudio,
        piece: SpooledPiece,
        trace: WorkTrace | None,
        parts: list[TranscribedPart],
    ) -> list[TranscribedPart]:
        """Transcribe a piece again in the audio's language if it stands alone with its own."""
        if not audio.detects_language or not self._caller.takes_language(audio):
            return parts
        wanted = await audio.votes.settled(piece.index)
        if wanted is None or not audio.may_ask_again(windows_of(piece.length_s)):
            return parts
        self._counts.reheard(audio.request.model, "language", piece.length_s)
        try:
            answer = await self._caller.ask(audio, piece, trace, language=wanted)
        except RouterError:
            return parts
        verdict = CoverageVerdict.COVERED
        if audio.verifies:
            verdict = check_coverage(answer.text, piece.speech, audio.rates)
        if verdict is not CoverageVerdict.COVERED:
            return parts
        answer = replace(answer, language=wanted)
        return [TranscribedPart(piece.speech, answer, verdict)]


def _windows(pieces: tuple[SpooledPiece, SpooledPiece]) -> int:
    return sum(windows_of(piece.length_s) for piece in pieces)


def _put_together(piece: SpooledPiece, parts: list[TranscribedPart]) -> Transcript:
    # If silence is sent too, engines may transcribe speech that the detector missed.
    whole = (SpeechSpan(piece.start_s, piece.end_s),)
    out = []
    for part in parts:
        segments = aligned(part.answer.text, part.speech or whole)
        out.append(replace(part.answer, segments=segments))
    return joined(out)
