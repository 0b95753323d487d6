"""Decode uploads, cut them into chunks of 30 s, and run the model on one chunk at a time.

The chunks of all requests wait in one queue, first come, first served. A client that leaves takes
its waiting chunks along.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import ctranslate2

from vllm_router.local.audio import RATE_HZ, AudioChunk, decode, split
from vllm_router.local.errors import ApiError
from vllm_router.local.responses import Chunk
from vllm_router.local.whisper import Options, Whisper

T = TypeVar("T")

# The default of VLLM_MAX_AUDIO_PREPROCESS_WORKERS.
DECODE_WORKERS = 2


class CpuTranscriber:
    """A model and its queue.

    Attributes:
        running: Chunks that the model works on: 0 or 1.
        waiting: Chunks in the queue.
    """

    def __init__(self, model: Whisper) -> None:
        self.model = model
        self.running = 0
        self.waiting = 0
        self._turn = asyncio.Semaphore(1)
        self._decoders = ThreadPoolExecutor(DECODE_WORKERS, "decode")
        self._worker = ThreadPoolExecutor(1, "model")

    async def open(self, data: bytes, options: Options) -> "Recording":
        """Decode an upload and, unless the language was given, detect it in the first chunk.

        Raises:
            ApiError: Not audio, too long, or in a language that the model does not know.
        """
        known = self.model.languages
        if len(known) == 1:
            # An English-only model cannot be told a language.
            options = replace(options, language="en")
        elif options.language is not None and options.language not in known:
            message = f"The model does not support the language {options.language!r}."
            raise ApiError(400, message, param="language")
        loop = asyncio.get_running_loop()
        chunks = await loop.run_in_executor(self._decoders, lambda: split(decode(data)))
        encoded = None
        if options.language is None:
            encoded, language = await self.run(lambda: self._detect(chunks[0]))
            options = replace(options, language=language)
        return Recording(self, chunks, options, encoded)

    async def run(self, work: Callable[[], T]) -> T:
        """Run work on the model's thread when its turn comes."""
        self.waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        job = asyncio.get_running_loop().run_in_executor(self._worker, work)
        # A thread cannot be stopped: the turn ends with the work, even if the client has left.
        job.add_done_callback(self._end_turn)
        return await asyncio.shield(job)

    def close(self) -> None:
        """End the threads once they have finished what they are working on."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _end_turn(self, job: "asyncio.Future[T]") -> None:
        self.running -= 1
        self._turn.release()
        if not job.cancelled():
            job.exception()  # Retrieved, or asyncio reports it when the client has left.

    def _detect(self, first: AudioChunk) -> tuple[ctranslate2.StorageView, str]:
        encoded = self.model.encode(first.samples)
        return encoded, self.model.detect_language(encoded)


class Recording:
    """A decoded upload in a known language.

    Args:
        transcriber: Runs the model.
        chunks: The audio.
        options: With a language.
        encoded: The encoder's output for the first chunk, if language detection left it.
    """

    def __init__(
        self,
        transcriber: CpuTranscriber,
        chunks: Sequence[AudioChunk],
        options: Options,
        encoded: ctranslate2.StorageView | None,
    ) -> None:
        self.language = options.language or "en"
        self.duration_s = chunks[-1].start_s + len(chunks[-1].samples) / RATE_HZ
        self._transcriber = transcriber
        self._chunks = chunks
        self._options = options
        self._encoded = encoded

    async def transcribe(self) -> list[Chunk]:
        """Return all chunks in order; all of them wait in the queue at the same time."""
        async with asyncio.TaskGroup() as group:
            indexes = range(len(self._chunks))
            tasks = [group.create_task(self._transcribe(index)) for index in indexes]
        return [task.result() for task in tasks]

    async def stream(self) -> AsyncIterator[Chunk]:
        """Return the chunks one after the other."""
        for index in range(len(self._chunks)):
            yield await self._transcribe(index)

    async def _transcribe(self, index: int) -> Chunk:
        return await self._transcriber.run(lambda: self._run_model(index))

    def _run_model(self, index: int) -> Chunk:
        chunk, model = self._chunks[index], self._transcriber.model
        encoded = self._encoded if index == 0 else None
        if encoded is None:
            encoded = model.encode(chunk.samples)
        return model.transcribe(encoded, chunk.start_s, chunk.duration_s, self._options)
