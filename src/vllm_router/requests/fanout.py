"""Transcribe one audio on many engines: split between stretches of speech, in parallel, in order.

Decoding, sending and responding overlap. Pieces wait in the common queue, as long work. They are
held in a spool of their own, in memory and then on disk, at most `AHEAD` at a time, so memory does
not depend on the audio's length and a slow client slows the decoding. `PieceTranscriber`
transcribes each piece; the caller processes the results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Final

from vllm_router.audio.decoding.decoder import AudioDecoder, PieceStream
from vllm_router.audio.length import MeasuredSeconds
from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.audio.split import Piece
from vllm_router.errors import RouterError, SpoolFull, UnsupportedValue
from vllm_router.formats.engine_error import EngineRefused
from vllm_router.requests.piece_transcriber import PieceTranscriber
from vllm_router.requests.pieces import LongAudio, PieceResult, SpeechMap, SpooledPiece
from vllm_router.requests.transcription_request import TranscriptionRequest
from vllm_router.scheduling.work import WorkTrace
from vllm_router.spool.upload import Spool, SpoolFailed, Upload

#: Pieces decoded but not yet returned: enough to keep a large fleet busy; 0.96 MB each.
AHEAD: Final = 256
#: Time limit for detecting the speech in a short audio, including the wait for a decoder process.
SPEECH_S: Final = 5.0
#: Length of a stream's leading piece, so that its first words come soon. Without a stream all
#: pieces have full length: a piece of any length costs an engine a whole window.
LEADER_S: Final = 6.0

Take = Callable[[PieceResult], Awaitable[None]]


class Fanout:
    """Has audio transcribed by the whole fleet.

    Args:
        transcriber: Transcribes each piece.
        decoder: Decodes the audio and splits it.
        spool: Holds pieces until they have been transcribed.
        counted: Called with each piece's outcome: "heard" or "missing".
    """

    def __init__(
        self,
        transcriber: PieceTranscriber,
        decoder: AudioDecoder,
        spool: Spool,
        counted: Callable[[str], None],
    ) -> None:
        self._transcriber = transcriber
        self._decoder = decoder
        self._spool = spool
        self._counted = counted

    async def hear(self, audio: LongAudio, take: Take) -> MeasuredSeconds:
        """Transcribe an audio, and pass on its pieces in order as they are ready.

        Returns:
            The length of the decoded audio in seconds.

        Raises:
            RouterError: The audio cannot be decoded, or a piece cannot be transcribed.
        """
        file = audio.request.file
        stream = self._decoder.pieces(
            audio.file,
            offset=file.start,
            size_bytes=file.end - file.start,
            first_s=(LEADER_S,) if audio.is_stream else (),
            keeps_silence=not audio.skip_silence,
            channels=audio.channels,
        )
        pieces: asyncio.Queue[asyncio.Task[PieceResult] | None] = asyncio.Queue()
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
        assert stream.length_s is not None
        audio.record.damaged(stream.damage)
        return stream.length_s

    async def speech(self, request: TranscriptionRequest, file: int) -> SpeechMap | None:
        """Return the speech in a short audio; None: it cannot be detected in time.

        Args:
            request: The request.
            file: Descriptor of the file that holds the upload.
        """
        audio = request.file
        stream = self._decoder.pieces(file, offset=audio.start, size_bytes=audio.end - audio.start)
        spans: list[SpeechSpan] = []
        try:
            async with asyncio.timeout(SPEECH_S), aclosing(stream):
                async for piece in stream:
                    spans += (SpeechSpan(a, b) for a, b in piece.speech)
        except (RouterError, TimeoutError):
            return None
        assert stream.length_s is not None
        return SpeechMap(tuple(spans), stream.length_s, stream.damage)

    async def length_s(
        self,
        request: TranscriptionRequest,
        file: int,
        damaged: Callable[[tuple[str, ...]], None] = lambda _: None,
    ) -> MeasuredSeconds | None:
        """Return the seconds of audio in a short upload; None: not known in time.

        Args:
            request: The request.
            file: Descriptor of the file that holds the upload.
            damaged: Called with the damage to the file, in sentences.
        """
        audio = request.file
        stream = self._decoder.pieces(
            file, offset=audio.start, size_bytes=audio.end - audio.start, only_length=True
        )
        try:
            async with asyncio.timeout(SPEECH_S), aclosing(stream):
                async for _ in stream:
                    pass
        except (RouterError, TimeoutError):
            return None
        damaged(stream.damage)
        return stream.length_s

    async def _cut(
        self,
        audio: LongAudio,
        stream: PieceStream,
        group: asyncio.TaskGroup,
        pieces: asyncio.Queue[asyncio.Task[PieceResult] | None],
        room: asyncio.Semaphore,
    ) -> None:
        count = 0
        async for cut in stream:
            await room.acquire()
            piece = await _spooled(cut, count, self._spool)
            count = audio.record.pieces = count + 1
            audio.sent_of(cut.channel)
            task = group.create_task(self._hear_piece(audio, piece))
            # Not inside the task: a task cancelled before it starts never runs.
            task.add_done_callback(partial(_release, piece.upload))
            pieces.put_nowait(task)
        audio.votes.end(count)
        pieces.put_nowait(None)

    async def _hear_piece(self, audio: LongAudio, piece: SpooledPiece) -> PieceResult:
        if audio.record.trace is None:
            return await self._hear(audio, piece, None)
        trace = audio.record.trace.piece(piece.index, piece.start_s, piece.end_s)
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

    async def _hear(
        self, audio: LongAudio, piece: SpooledPiece, trace: WorkTrace | None
    ) -> PieceResult:
        try:
            if audio.is_stream and piece.index:
                await audio.wait_for_leader()
            transcript = await self._transcriber.transcribe(audio, piece, trace)
        except (EngineRefused, UnsupportedValue):
            raise
        except RouterError as e:
            if not audio.partial_ok:
                raise _named(e, piece) from e
            self._counted("missing")
            return PieceResult(
                piece.start_s, piece.end_s, None, (), e.message, piece.channel, piece.frontier_s
            )
        finally:
            # Whatever the piece's outcome, no other piece may wait for it forever.
            audio.votes.note(piece.index, None, 0.0, 0.0)
            audio.end_lead(piece.index)
        self._counted("heard")
        return PieceResult(
            piece.start_s,
            piece.end_s,
            transcript,
            piece.speech,
            None,
            piece.channel,
            piece.frontier_s,
        )


def _first(several: BaseExceptionGroup[BaseException]) -> RouterError | None:
    """Return the first error that a client can be shown, if there is one."""
    for error in several.exceptions:
        found = _first(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, RouterError):
            return found
    return None


def _release(upload: Upload, _: asyncio.Task[PieceResult]) -> None:
    upload.close()


async def _spooled(piece: Piece, number: int, spool: Spool) -> SpooledPiece:
    upload = spool.upload()
    try:
        for _ in upload.append(piece.pcm):
            pass
        await upload.flush()
    except SpoolFailed as e:
        upload.close()
        raise SpoolFull(f"The router has no room to hold the audio's segments: {e}.") from e
    except BaseException:
        upload.close()
        raise
    speech = tuple(SpeechSpan(a, b) for a, b in piece.speech)
    return SpooledPiece(
        number,
        piece.start_s,
        piece.end_s,
        speech,
        piece.stretches,
        upload,
        len(piece.pcm),
        channel=piece.channel,
        frontier_s=piece.frontier_s,
    )


def _named(error: RouterError, piece: SpooledPiece) -> RouterError:
    where = f"Seconds {piece.start_s:.1f} to {piece.end_s:.1f} of the audio were not transcribed"
    return type(error)(f"{where}. {error.message}", retry_after_s=error.retry_after_s)
