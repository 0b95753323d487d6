"""Long audio in pieces, decoded by worker processes without blocking the event loop.

Promises: memory use does not depend on the audio's length, because a piece is decoded only after
the previous one has been taken; at most `max_workers` processes, started when first needed and
reused; an abandoned stream kills its worker at once. Broken files raise `UnreadableAudio`, whatever
they did to the decoder. Refuses to know: engines, requests, response formats.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import vllm_router
from vllm_router.audio.channels import Channels
from vllm_router.audio.decoding.worker import (
    ANSWER,
    ERROR,
    GOES_ON,
    OFF,
    PIECE,
    SILERO,
    UNKNOWN,
    Job,
)
from vllm_router.audio.length import MeasuredSeconds
from vllm_router.audio.piece import Piece
from vllm_router.errors import RouterError, UnknownAudioFormat, UnreadableAudio

__all__ = ["AudioDecoder", "DecoderUnavailable", "Piece", "PieceStream", "memory_file"]

MEMORY_LIMIT_BYTES: Final = 2 * 1024**3
"""Address space of a worker: its libraries map 0.5 GB, an honest file needs 0.05 GB more."""
MOST_ANSWER_BYTES: Final = 16 * 1024**2
"""Samples or JSON in one message: a piece of 30 s is 0.96 MB. Even if a file compromises a decoder,
the router must not wait for gigabytes."""
START_TIMEOUT_S: Final = 60.0
_TOO_SLOW: Final = "The audio takes too long to decode."
_OUT_OF_CPU: Final = -signal.SIGXCPU
_CONSTANT_ENVIRONMENT: Final = {
    # Each unused thread of the linear algebra library would cost memory.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
#: Two, so that a long file does not delay a short one.
_FEWEST_WORKERS: Final = 2
#: Each takes about 100 MB.
_MOST_WORKERS: Final = 16


class DecoderUnavailable(RouterError):
    """No worker process could be started: the machine lacks processes or memory."""

    status = 503
    code = "decoder_unavailable"


def default_workers(cpus: float) -> int:
    """Return the default number of decoder processes.

    Decoding an hour and detecting its speech takes 8 s of CPU, so a core processes audio 450 times
    faster than real time: about a fifth of an H200's rate. Half of the CPUs are left to other work.

    Args:
        cpus: CPUs that may be used.
    """
    return max(_FEWEST_WORKERS, min(int(cpus / 2), _MOST_WORKERS))


class AudioDecoder:
    """Owns the worker processes that decode and cut audio.

    Use it as a context manager: its exit ends every process. A stream of pieces holds one process
    until it ends or is closed; further streams wait in order of arrival.

    Args:
        max_workers: Maximum number of processes; each decodes one audio, on one core, in about
            100 MB.
        max_audio_s: Longer audio is rejected, in seconds.
        piece_timeout_s: Decoding is aborted if it takes longer than this for one piece, or for ten
            minutes without speech.
        memory_bytes: Maximum address space of a worker.
        cpu_s: CPU seconds that a worker may use for one piece, or for ten minutes without speech;
            the kernel kills one that exceeds them, even if the router has been killed.
        keeps_one_ready: Whether a process is started ahead of need, which saves the second or so
            that its start takes on a busy machine.
        vad: How speech is detected: "silero", by a neural network; "level", by loudness alone;
            "off", not at all: the pieces contain all audio.
    """

    def __init__(
        self,
        *,
        max_workers: int = 4,
        max_audio_s: float = 86_400.0,
        piece_timeout_s: float = 60.0,
        memory_bytes: int = MEMORY_LIMIT_BYTES,
        cpu_s: int = 60,
        keeps_one_ready: bool = False,
        vad: str = SILERO,
    ) -> None:
        self._slots = asyncio.Semaphore(max_workers)
        self._max_audio_s = max_audio_s
        self._piece_timeout_s = piece_timeout_s
        self._memory_bytes = memory_bytes
        self._cpu_s = cpu_s
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()
        self._keeps_one_ready = keeps_one_ready
        self._vad = vad
        self._preparing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        running = sum(worker.is_alive for worker in self._workers)
        return f"<AudioDecoder {running} processes, {len(self._idle)} idle>"

    async def __aenter__(self) -> Self:
        self._prepare()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._keeps_one_ready = False
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.wait([self._preparing])
        self._idle.clear()
        for worker in list(self._workers):
            worker.kill()
        for worker in list(self._workers):
            await self._gone(worker)

    def pieces(
        self,
        source: int | Path,
        *,
        offset: int = 0,
        size_bytes: int | None = None,
        max_piece_s: float = 30.0,
        first_s: tuple[float, ...] = (),
        keeps_silence: bool = False,
        only_length: bool = False,
        channels: Channels = Channels.MIX,
    ) -> "PieceStream":
        """Return the pieces of an audio, decoded on demand.

        Args:
            source: A path, or the descriptor of an open regular file (which may be unlinked or in
                memory); the caller keeps it open until the stream has ended, and closes it.
            offset: Start of the audio in the file.
            size_bytes: Size of the audio; by default, up to the file's end.
            max_piece_s: Maximum length of a piece, in seconds.
            first_s: Maximum lengths of the first, second, … piece, if these should be shorter.
            keeps_silence: Whether audio without speech stays in the pieces.
            only_length: Whether to return no pieces, but only the length at the end.
            channels: The channels to cut; pieces of all channels come in the order in which they
                are decided.
        """

        def job(file_bytes: int) -> Job:
            rest = file_bytes - offset
            return Job(
                offset=offset,
                size_bytes=rest if size_bytes is None else size_bytes,
                max_audio_s=self._max_audio_s,
                max_piece_s=max_piece_s,
                first_s=first_s,
                keeps_silence=keeps_silence or self._vad == OFF,
                vad=self._vad,
                cpu_s=self._cpu_s,
                only_length=only_length,
                channels=channels.value,
            )

        return PieceStream(self, source, job)

    async def warm(self) -> None:
        """Start a worker ahead of need, if none is idle.

        Raises:
            DecoderUnavailable: It did not start.
        """
        async with self._slots:
            if not self._idle:
                self._idle.append(await self._start())

    def _prepare(self) -> None:
        is_preparing = self._preparing is not None and not self._preparing.done()
        if self._keeps_one_ready and not self._idle and not is_preparing:
            self._preparing = asyncio.get_running_loop().create_task(self._start_ahead())

    async def _start_ahead(self) -> None:
        # A caller that needs a process gets the error.
        with contextlib.suppress(DecoderUnavailable, TimeoutError):
            await self.warm()

    async def _take(self) -> "_Worker":
        if self._preparing is not None and not self._preparing.done():
            # It will be ready sooner than one that is started now.
            await asyncio.wait([self._preparing])
        await self._slots.acquire()
        try:
            while self._idle:
                worker = self._idle.pop()
                if worker.is_alive:
                    return worker
                worker.kill()
                await self._gone(worker)
            return await self._start()
        except BaseException:
            self._slots.release()
            raise

    def _give_back(self, worker: "_Worker") -> None:
        # One is kept for the next audio; the others of a burst would only occupy memory.
        if self._idle or not worker.is_alive:
            worker.kill()
        else:
            self._idle.append(worker)
        self._slots.release()

    def _abandon(self, worker: "_Worker") -> None:
        worker.kill()
        self._slots.release()
        self._prepare()

    async def _gone(self, worker: "_Worker") -> None:
        await worker.process.wait()
        self._workers.discard(worker)

    async def _start(self) -> "_Worker":
        for gone in [worker for worker in self._workers if not worker.is_alive]:
            self._workers.discard(gone)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-P", "-m", "vllm_router.audio.decoding.worker"),
                    *(str(theirs.fileno()), str(self._memory_bytes), self._vad),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                    env=_environment(),
                )
        except OSError as error:
            ours.close()
            raise DecoderUnavailable(
                f"The audio decoder process could not be started: {error.strerror}."
            ) from error
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        worker = _Worker(process, ours)
        self._workers.add(worker)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await worker.answer()  # READY: it is up and within its bounds
        except (OSError, EOFError) as error:
            worker.kill()
            raise DecoderUnavailable("The audio decoder process did not start.") from error
        except BaseException:
            worker.kill()
            raise
        return worker


class PieceStream:
    """The pieces of one audio, as an asynchronous iterator.

    Close it, or use it as a context manager, however it ends: an unfinished iterator holds its
    process. Closing twice is harmless.

    Attributes:
        length_s: The decoded length of the audio; None before the last piece has been taken.
        speech_s: Seconds of speech in it; None before that.
        damage: Sentences about the file's damage; empty before that.

    Raises, from iterating:
        UnreadableAudio: The file cannot be decoded, is too long or too slow to decode; perhaps
            after some pieces.
        UnknownAudioFormat: No supported format; before any piece.
        DecoderUnavailable: No process could be started.
        OSError: The path could not be opened.
    """

    def __init__(
        self,
        decoder: AudioDecoder,
        source: int | Path,
        job: Callable[[int], Job],
    ) -> None:
        self._decoder = decoder
        self._source = source
        self._job = job
        self._worker: _Worker | None = None
        self._killed: _Worker | None = None
        self._has_ended = False
        self.length_s: MeasuredSeconds | None = None
        self.speech_s: float | None = None
        self.damage: tuple[str, ...] = ()

    def __repr__(self) -> str:
        state = "ended" if self._has_ended else "running" if self._worker else "waiting"
        return f"<PieceStream {state}>"

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def __anext__(self) -> Piece:
        if self._has_ended:
            raise StopAsyncIteration
        try:
            worker = self._worker or await self._begin()
            kind = GOES_ON
            while kind == GOES_ON:
                async with asyncio.timeout(self._decoder._piece_timeout_s):
                    kind, meta, pcm = await worker.answer()
        except TimeoutError as error:
            self._leave()
            raise UnreadableAudio(_TOO_SLOW, param="file") from error
        except (EOFError, ConnectionError) as error:
            self._leave()
            if self._killed is not None and await self._killed.process.wait() == _OUT_OF_CPU:
                raise UnreadableAudio(_TOO_SLOW, param="file") from error
            raise UnreadableAudio(
                "The audio file is damaged: the decoder failed on it.", param="file"
            ) from error
        except BaseException:
            self._leave()
            raise
        if kind == PIECE:
            index, start_s, end_s, speech, stretches, channel, frontier_s = json.loads(meta)
            return Piece(
                index,
                start_s,
                end_s,
                pcm,
                tuple((a, b) for a, b in speech),
                tuple((own, a, length) for own, a, length in stretches),
                channel,
                frontier_s,
            )
        self._has_ended = True
        self._worker = None
        self._decoder._give_back(worker)
        if kind == UNKNOWN:
            raise UnknownAudioFormat(meta.decode(), param="file")
        if kind == ERROR:
            raise UnreadableAudio(meta.decode(), param="file")
        length_s, self.speech_s, damage = json.loads(meta)
        self.length_s = MeasuredSeconds(length_s)
        self.damage = tuple(damage)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop decoding at once, and wait until the process has ended."""
        self._leave()
        killed, self._killed = self._killed, None
        if killed is not None:
            await self._decoder._gone(killed)

    def _leave(self) -> None:
        self._has_ended = True
        worker, self._worker = self._worker, None
        if worker is not None:
            self._killed = worker
            self._decoder._abandon(worker)

    async def _begin(self) -> "_Worker":
        worker = self._worker = await self._decoder._take()
        with _opened(self._source) as fd:
            worker.send(self._job(os.fstat(fd).st_size).encode(), fd)
        return worker


class _Worker:
    """One process and the socket to it."""

    def __init__(self, process: asyncio.subprocess.Process, sock: socket.socket) -> None:
        self.process = process
        self._socket = sock

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None and self._socket.fileno() >= 0

    def kill(self) -> None:
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def send(self, message: bytes, fd: int) -> None:
        # A few hundred bytes fit into an empty socket buffer, so this does not block.
        socket.send_fds(self._socket, [message], [fd])

    async def answer(self) -> tuple[bytes, bytes, bytes]:
        """Return (kind, JSON, samples).

        Raises:
            EOFError: The process has ended, or has sent an invalid message.
        """
        kind, meta_bytes, pcm_bytes = ANSWER.unpack(await self._exactly(ANSWER.size))
        if max(meta_bytes, pcm_bytes) > MOST_ANSWER_BYTES:
            raise EOFError
        meta = await self._exactly(meta_bytes)
        return kind, bytes(meta), bytes(await self._exactly(pcm_bytes))

    async def _exactly(self, count: int) -> bytearray:
        loop = asyncio.get_running_loop()
        data = bytearray(count)
        view = memoryview(data)
        while view:
            got = await loop.sock_recv_into(self._socket, view)
            if not got:
                raise EOFError
            view = view[got:]
        return data


def memory_file(data: bytes | bytearray | memoryview) -> int:
    """Return the descriptor of a file in memory that holds `data`; the caller closes it."""
    fd = os.memfd_create("audio", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def _opened(source: int | Path) -> Iterator[int]:
    if isinstance(source, int):
        yield source
        return
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _environment() -> dict[str, str]:
    """Return a worker's environment: where the code is, and none of the router's secrets."""
    source = str(Path(vllm_router.__file__).parents[1])
    path = os.pathsep.join(p for p in (source, os.environ.get("PYTHONPATH", "")) if p)
    kept = {name: os.environ[name] for name in ("LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, **_CONSTANT_ENVIRONMENT, "PYTHONPATH": path}
