"""One question to an engine: what is said in this piece of audio?

Pieces are asked for as `json` whatever the client wants: it is the cheapest form, the one in which
engines lose the fewest words, and the one that every model has. Times are derived from the speech
(`formats.alignment`).
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from vllm_router.audio.wav import pcm16_header
from vllm_router.errors import (
    EngineFailed,
    EnginesBusy,
    EnginesDied,
    EngineTooSlow,
    NoEngineReady,
    no_word_times,
)
from vllm_router.formats.transcript import Transcript, read_transcript
from vllm_router.requests.attempts import AttemptRunner
from vllm_router.requests.pieces import LongAudio, SpooledPiece
from vllm_router.requests.relay import Relay, UploadBody, understood
from vllm_router.scheduling.engine import Engine
from vllm_router.scheduling.work import OutcomeKind, Ticket, WorkTrace, windows_of
from vllm_router.upstream.answer import Answer
from vllm_router.upstream.model_capabilities import ModelCapabilities
from vllm_router.upstream.refusal import RefusalKind, read_refusal

#: Waits before a piece is tried anew when the fleet cannot take it: together longer than an engine
#: needs to restart and to be noticed, since an hour of work should not die of a minute's trouble.
PATIENCE_S: Final = (1.0, 3.0, 10.0, 20.0)

#: Engines that must refuse a piece before the whole audio fails: what it would cost to be wrong is
#: not one upload but an hour of work.
VOTES: Final = 3

#: Fields that speak of the whole upload or of its answer, and are made anew for each piece.
_OURS: Final = frozenset(
    {
        "file",
        "model",
        "language",
        "response_format",
        "stream",
        "stream_include_usage",
        "stream_continuous_usage_stats",
        "timestamp_granularities",
        "timestamp_granularities[]",
        "channels",
        "chunking_strategy",
        "known_speaker_names",
        "known_speaker_names[]",
        "known_speaker_references",
        "known_speaker_references[]",
    }
)


class PieceFailed(EngineFailed):
    """Engines agree that they cannot transcribe a piece, and do not say why."""


class PieceCaller:
    """Asks the fleet for the words of pieces.

    Args:
        dispatcher: Brings pieces to engines.
        relay: Knows how engines are called.
        capabilities: What models' engines can do.
    """

    def __init__(
        self, dispatcher: AttemptRunner, relay: Relay, capabilities: ModelCapabilities
    ) -> None:
        self._dispatcher = dispatcher
        self._relay = relay
        self._capabilities = capabilities

    def takes_language(self, audio: LongAudio) -> bool:
        """Return whether engines may be told the language, as far as known."""
        return self._capabilities.of(audio.request.model).language is not False

    async def ask(
        self,
        audio: LongAudio,
        piece: SpooledPiece,
        trace: WorkTrace | None,
        *,
        language: str | None = None,
        temperature: float | None = None,
        tells_language: bool = True,
        asks_words: bool = True,
    ) -> Transcript:
        """Return an engine's words for a piece.

        Args:
            audio: The audio it is from.
            piece: The piece.
            trace: Follows the work; None: nobody does.
            language: In place of the audio's; None: the audio's, if the client gave one.
            temperature: In place of the client's.
            tells_language: Whether the engine is told the language, if there is one.
            asks_words: Whether it is asked for times of words, if the client wants them.

        Raises:
            EngineRefused: The engine refused, for a reason that is the client's to see.
            UnsupportedValue: It gives no times of words.
            PieceFailed: Engines answered 500.
            RouterError: The words could not be had.
        """
        boundary = b"piece-" + secrets.token_hex(12).encode()
        headers = [
            *audio.headers,
            (b"content-type", b"multipart/form-data; boundary=" + boundary),
        ]
        path = b"/v1/audio/" + audio.request.task.value.encode()
        told = language or audio.language
        if not tells_language or not self.takes_language(audio):
            told = None
        wants_words = audio.wants_words and asks_words
        body = _form(audio, piece, boundary, told, temperature, wants_words=wants_words)
        request_id = f"{audio.record.request_id}/{piece.index}"
        heard: list[Transcript] = []

        async def send(engine: Engine) -> Answer:
            audio.record.given_to(engine.engine_id)
            sent = headers if trace is None else trace.attempt(engine.engine_id, headers)

            def read(answer: bytes) -> None:
                heard.append(read_transcript(answer, round(piece.length_s, 3)))

            call = self._relay.send(engine, path, request_id, sent, body, piece.length_s)
            return await understood(call, read)

        for patience_s in (*PATIENCE_S, None):
            ticket = Ticket(
                request_id=request_id,
                model=audio.request.model,
                audio_s=piece.length_s,
                windows=windows_of(piece.length_s),
                urgency=audio.urgency,
                enqueued_at=audio.enqueued_at,
                votes=VOTES,
                is_admitted=True,
                trace=trace,
                deaths=piece.deaths,
                # Pieces keep their order: a stream's first words wait for nothing that comes after.
                ahead=piece.index,
            )
            try:
                attempt = await self._dispatcher.attempt(ticket, send)
            except EnginesDied:
                raise
            except (EngineFailed, EnginesBusy, EngineTooSlow, NoEngineReady):
                if patience_s is None:
                    raise
                await asyncio.sleep(patience_s)
                continue
            audio.record.queue_s = max(audio.record.queue_s, attempt.waited_s)
            audio.record.windows += ticket.windows
            answer = attempt.answer
            if answer.status == 200:
                attempt.close(OutcomeKind.OK)
                return heard[-1]
            said = await attempt.refusal()
            reason = read_refusal(
                answer.status,
                answer.body or said.body(),
                asked_format="verbose_json" if wants_words else None,
                language=told,
            ).kind
            if reason is RefusalKind.NO_WORDS:
                return Transcript("")
            if reason is RefusalKind.FORMAT:
                # It was the reason only if the piece passes with another one.
                await self.ask(
                    audio,
                    piece,
                    trace,
                    language=language,
                    temperature=temperature,
                    tells_language=tells_language,
                    asks_words=False,
                )
                for engine_id in attempt.refused_by:
                    self._capabilities.refused_format(ticket, engine_id)
                raise no_word_times()
            if reason is RefusalKind.LANGUAGE:
                words = await self.ask(
                    audio,
                    piece,
                    trace,
                    temperature=temperature,
                    tells_language=False,
                    asks_words=asks_words,
                )
                # The field was the reason indeed.
                for engine_id in attempt.refused_by:
                    self._capabilities.refused_language(ticket, engine_id)
                return words
            if answer.status >= 500:
                # Of a whole upload this is the client's to see; of a piece it says too little.
                raise PieceFailed(f"The engines answered {answer.status} to it.")
            raise said
        raise AssertionError("the last round raises")


def _form(
    audio: LongAudio,
    piece: SpooledPiece,
    boundary: bytes,
    language: str | None,
    temperature: float | None,
    *,
    wants_words: bool,
) -> UploadBody:
    """Return the form for one piece: the client's fields, with ours in their places."""
    fields = [
        (part.name.encode(), part.value)
        for part in audio.request.form.parts
        if part.value is not None
        and part.name not in _OURS
        and not (part.name == "temperature" and temperature is not None)
    ]
    if audio.request.asked_model is not None:
        fields.append((b"model", audio.request.model.encode()))
    if wants_words:
        fields.append((b"response_format", b"verbose_json"))
        fields.append((b"timestamp_granularities[]", b"word"))
    else:
        fields.append((b"response_format", b"json"))
    if language is not None:
        fields.append((b"language", language.encode()))
    if temperature is not None:
        fields.append((b"temperature", b"%g" % temperature))
    head = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (boundary, name, value)
        for name, value in fields
    ]
    head.append(
        b'--%b\r\nContent-Disposition: form-data; name="file"; filename="piece-%d.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n" % (boundary, piece.index)
    )
    head.append(pcm16_header(piece.size_bytes))
    end = b"\r\n--%b--\r\n" % boundary
    samples = (piece.first_byte, piece.first_byte + piece.size_bytes)
    return UploadBody(piece.upload, [b"".join(head), samples, end])
