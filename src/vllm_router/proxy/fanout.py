"""One long audio to many engines: cut where it is quiet, heard in parallel, given back in order.

Decoding, sending and answering overlap. Pieces wait in the same queue as everything else, as long
work. They lie in a spool of their own, in memory and then on disk, at most `AHEAD` at a time, so
that memory does not depend on the audio's length and a slow client slows the decoding. A piece that
one engine fails at goes to others; one that cannot be had is named by its seconds; one in whose
words an engine went round in circles is heard again in halves. What becomes of the pieces is the
caller's business.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial

from vllm_router.engines.engine import Engine
from vllm_router.engines.work import OutcomeKind, Ticket, WorkTrace, windows_of
from vllm_router.errors import (
    EngineFailed,
    EngineSaid,
    EngineTooSlow,
    NoEngineReady,
    RouterError,
    SpoolFull,
)
from vllm_router.outbound.answer import Answer
from vllm_router.outbound.audio import AudioDecoder, PieceStream
from vllm_router.outbound.upload import Spool, SpoolFailed, Upload
from vllm_router.proxy.dispatch import Dispatcher
from vllm_router.proxy.facts import RequestFacts
from vllm_router.proxy.pieces import Heard, LongAudio, SpooledPiece
from vllm_router.proxy.relay import Relay, UploadBody, understood
from vllm_router.wire.loops import is_caught_in_a_loop
from vllm_router.wire.piece import Piece, heard_at
from vllm_router.wire.speech import Span
from vllm_router.wire.transcript import Transcript, joined, read_transcript
from vllm_router.wire.wav import pcm16_header

#: Pieces decoded and not yet given back: enough to keep a large fleet busy; 0.96 MB each.
AHEAD = 256
#: What a piece waits before it is tried anew when the fleet cannot take it: together longer than an
#: engine's restart takes to be noticed, since an hour of work should not die of a minute's trouble.
PATIENCE_S = (1.0, 3.0, 10.0, 20.0)
#: What finding speech in a short audio may take, waiting for a worker included.
SPEECH_S = 5.0
#: The leading piece of a stream, so that its first words are there soon. Without a stream all are
#: of full length: an engine pays for a whole window whatever it gets.
LEADER_S = 6.0
#: How often a piece is cut in two while its words are a loop.
HALVED_TIMES = 2

#: Fields that speak of the whole upload or of its answer, and are made anew for each piece.
_OURS = frozenset(
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
    }
)


Take = Callable[[Heard], Awaitable[None]]


class Fanout:
    """Has long audio heard by the whole fleet.

    Args:
        dispatcher: Brings pieces to engines.
        relay: Knows how engines are called.
        decoder: Cuts.
        spool: Holds pieces until they have been heard.
        counted: Told what became of each piece: "heard", "missing";
            and "halved" for each that was heard again.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        relay: Relay,
        decoder: AudioDecoder,
        spool: Spool,
        counted: Callable[[str], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._relay = relay
        self._decoder = decoder
        self._spool = spool
        self._counted = counted

    async def hear(self, audio: LongAudio, take: Take) -> float:
        """Have an audio heard, handing over the pieces in order as they are ready.

        Returns:
            The audio's length in seconds, as it was decoded.

        Raises:
            RouterError: It cannot be decoded, or a piece of it cannot be had.
        """
        file = audio.facts.file
        stream = self._decoder.pieces(
            audio.file,
            offset=file.start,
            size_bytes=file.end - file.start,
            first_s=(LEADER_S,) if audio.is_stream else (),
            keeps_silence=not audio.skip_silence,
        )
        pieces: asyncio.Queue[asyncio.Task[Heard] | None] = asyncio.Queue()
        room = asyncio.Semaphore(AHEAD)
        try:
            async with aclosing(stream), asyncio.TaskGroup() as group:
                group.create_task(self._cut(audio, stream, group, pieces, room))
                while (task := await pieces.get()) is not None:
                    await take(await task)
                    room.release()
        except BaseExceptionGroup as several:
            error = _first(several)
            if error is None:
                raise
            raise error from several
        return stream.length_s or 0.0

    async def speech(self, facts: RequestFacts, file: int) -> list[Span] | None:
        """Return where somebody speaks in a short audio; None if that cannot be had soon.

        An engine's own times of sentences are half a second off at every eighth: subtitles are
        better for knowing, and no worse for not knowing.

        Args:
            facts: The request's.
            file: Descriptor of the file that holds the upload.
        """
        audio = facts.file
        stream = self._decoder.pieces(file, offset=audio.start, size_bytes=audio.end - audio.start)
        spans: list[Span] = []
        try:
            async with asyncio.timeout(SPEECH_S), aclosing(stream):
                async for piece in stream:
                    spans += (Span(a, b) for a, b in piece.speech)
        except (RouterError, TimeoutError):
            return None
        return spans

    async def _cut(
        self,
        audio: LongAudio,
        stream: PieceStream,
        group: asyncio.TaskGroup,
        pieces: asyncio.Queue[asyncio.Task[Heard] | None],
        room: asyncio.Semaphore,
    ) -> None:
        async for cut in stream:
            await room.acquire()
            piece = await _spooled(cut, audio.story.pieces, self._spool)
            audio.story.pieces += 1
            task = group.create_task(self._hear_piece(audio, piece))
            # Not in the task: one that is cancelled before it has begun never runs.
            task.add_done_callback(partial(_release, piece.upload))
            pieces.put_nowait(task)
        pieces.put_nowait(None)

    async def _hear_piece(self, audio: LongAudio, piece: SpooledPiece) -> Heard:
        if audio.story.trace is None:
            return await self._hear(audio, piece, None)
        trace = audio.story.trace.piece(piece.index, piece.start_s, piece.end_s)
        error: str | None = "cancelled"
        try:
            heard = await self._hear(audio, piece, trace)
            error = None if heard.missing is None else "missing"
        except RouterError as e:
            error = e.code
            raise
        finally:
            trace.end(error)
        return heard

    async def _hear(self, audio: LongAudio, piece: SpooledPiece, trace: WorkTrace | None) -> Heard:
        is_leader = audio.leads()
        try:
            if audio.is_stream and not is_leader:
                await audio.wait_for_leader()
            transcript, given = await self._ask(audio, piece, trace)
            if is_leader:
                audio.heard_leader(transcript.language)
            elif given is None:
                await audio.wait_for_leader()
                if audio.language not in (None, transcript.language):
                    transcript, _ = await self._ask(audio, piece, trace)
        except EngineSaid:
            raise
        except RouterError as e:
            if not audio.partial_ok:
                raise _named(e, piece) from e
            self._counted("missing")
            return Heard(piece.start_s, piece.end_s, None, (), e.message)
        finally:
            if is_leader:
                # Whatever became of the leader, nobody may wait for it for ever.
                audio.heard_leader(None)
        self._counted("heard")
        transcript = await self._without_loops(audio, piece, trace, transcript)
        return Heard(piece.start_s, piece.end_s, transcript, piece.speech)

    async def _without_loops(
        self,
        audio: LongAudio,
        piece: SpooledPiece,
        trace: WorkTrace | None,
        transcript: Transcript,
        times: int = HALVED_TIMES,
    ) -> Transcript:
        """Have a piece heard in halves if its words are a loop: less to get lost in."""
        if not times or not is_caught_in_a_loop(transcript) or (halves := piece.halves()) is None:
            return transcript
        self._counted("halved")
        parts = []
        for half in halves:
            try:
                part, _ = await self._ask(audio, half, trace)
            except RouterError:
                # It has been heard, after all.
                return transcript
            parts.append(await self._without_loops(audio, half, trace, part, times - 1))
        return joined(parts)

    async def _ask(
        self, audio: LongAudio, piece: SpooledPiece, trace: WorkTrace | None
    ) -> tuple[Transcript, str | None]:
        """Return a piece's words, on the audio's clock, and the language they were asked in."""
        length_s = piece.length_s
        boundary = b"piece-" + secrets.token_hex(12).encode()
        kind = b"multipart/form-data; boundary=" + boundary
        headers = [*audio.headers, (b"content-type", kind)]
        path = b"/v1/audio/" + audio.facts.task.value.encode()
        heard: list[tuple[Transcript, str | None]] = []

        async def send(engine: Engine) -> Answer:
            audio.story.given_to(engine.engine_id)
            # Not before now: while the piece waited, the language may have been found.
            language = audio.language
            body = _piece_body(audio, piece, boundary, language)
            sent = headers if trace is None else trace.attempt(engine.engine_id, headers)

            def read(answer: bytes) -> None:
                heard.append((read_transcript(answer, round(length_s, 3)), language))

            return await understood(self._relay.send(engine, path, sent, body, length_s), read)

        for patience_s in (*PATIENCE_S, None):
            ticket = Ticket(
                request_id=f"{audio.story.request_id}/{piece.index}",
                model=audio.facts.model,
                audio_s=length_s,
                windows=windows_of(length_s),
                urgency=audio.urgency,
                enqueued_at=audio.enqueued_at,
                is_admitted=True,
                trace=trace,
            )
            try:
                attempt = await self._dispatcher.attempt(ticket, send)
            except (EngineFailed, EngineTooSlow, NoEngineReady):
                if patience_s is None:
                    raise
                await asyncio.sleep(patience_s)
                continue
            audio.story.queue_s = max(audio.story.queue_s, attempt.waited_s)
            answer = attempt.answer
            if answer.status == 200:
                attempt.close(OutcomeKind.OK)
                transcript, language = heard[-1]
                return transcript.on_clock(partial(heard_at, stretches=piece.stretches)), language
            said = await attempt.refusal()
            if answer.status >= 500:
                # Of a whole upload this is the client's to see; of a piece it says too little.
                raise EngineFailed(f"The engines answered {answer.status} to it.")
            raise said
        raise AssertionError("the last round raises")


def _first(several: BaseExceptionGroup[BaseException]) -> RouterError | None:
    """Return the first error that can be told to the client, if there is one."""
    for error in several.exceptions:
        found = _first(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, RouterError):
            return found
    return None


def _release(upload: Upload, _: asyncio.Task[Heard]) -> None:
    upload.close()


async def _spooled(piece: Piece, number: int, spool: Spool) -> SpooledPiece:
    upload = spool.upload()
    try:
        for _ in upload.append(piece.pcm):
            pass
        await upload.flush()
    except SpoolFailed as e:
        upload.close()
        raise SpoolFull(f"There is no room to hold the audio's pieces: {e}.") from e
    except BaseException:
        upload.close()
        raise
    speech = tuple(Span(a, b) for a, b in piece.speech)
    return SpooledPiece(
        number, piece.start_s, piece.end_s, speech, upload, len(piece.pcm), piece.stretches
    )


def _named(error: RouterError, piece: SpooledPiece) -> RouterError:
    where = f"Seconds {piece.start_s:.1f} to {piece.end_s:.1f} of the audio could not be had"
    return type(error)(f"{where}. {error.message}", retry_after_s=error.retry_after_s)


def _piece_body(
    audio: LongAudio, piece: SpooledPiece, boundary: bytes, language: str | None
) -> UploadBody:
    """Return the form for one piece: the client's fields, with ours in their places."""
    fields = [
        (part.name.encode(), part.value)
        for part in audio.facts.form.parts
        if part.value is not None and part.name not in _OURS
    ]
    if audio.facts.asked_model is not None:
        fields.append((b"model", audio.facts.model.encode()))
    # Also where only words are wanted: it alone tells the language, and Whisper made to tell times
    # gets fewer words wrong at the ends of pieces (docs/performance.md).
    fields.append((b"response_format", b"verbose_json"))
    if language is not None:
        fields.append((b"language", language.encode()))
    head = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (boundary, name, value)
        for name, value in fields
    ]
    name = b"piece-%d.wav" % piece.index
    head.append(
        b'--%b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n'
        b"Content-Type: audio/wav\r\n\r\n" % (boundary, name)
    )
    head.append(pcm16_header(piece.size_bytes))
    end = b"\r\n--%b--\r\n" % boundary
    samples = (piece.first_byte, piece.first_byte + piece.size_bytes)
    return UploadBody(piece.upload, [b"".join(head), samples, end])
