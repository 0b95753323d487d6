"""A listener that runs a model: decode, cut into stretches of 30 s, transcribe.

The model works on one stretch at a time, with as many threads as it was given; stretches of all
requests wait in one queue, first come first served, and those of a client that left are dropped.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import ctranslate2

from vllm_router.local.answers import Chunk
from vllm_router.local.api import MAX_FILE_MB
from vllm_router.local.ask import ApiError, Ask
from vllm_router.local.sound import RATE_HZ, Cut, cut, decode
from vllm_router.local.whisper import Heard, Request, Whisper

T = TypeVar("T")

# VLLM_MAX_AUDIO_PREPROCESS_WORKERS, vLLM's default.
DECODE_WORKERS = 2
# A word with the space before it, as tokens carry it.
_WORD = re.compile(r"\s*\S+")


class RealListener:
    """Opens uploads for a model.

    Args:
        model: The loaded model.
    """

    # One byte more than is taken, so that an upload that is too large is not taken for a whole one.
    keep_bytes = MAX_FILE_MB * 1024**2 + 1

    def __init__(self, model: Whisper) -> None:
        self.model = model
        self.running = 0
        self.waiting = 0
        self._turn = asyncio.Semaphore(1)
        self._decoders = ThreadPoolExecutor(DECODE_WORKERS, "decode")
        self._worker = ThreadPoolExecutor(1, "model")

    async def open(self, ask: Ask) -> "RealRecording":
        """Decode an upload and, where no language was given, detect it on the first stretch.

        Raises:
            ApiError: No audio, longer than vLLM takes, or in a language the model was not taught.
        """
        known = self.model.languages
        # An English-only model cannot be told a language, so it is not asked about one.
        language = ask.language if len(known) > 1 else "en"
        if language is not None and language not in known:
            raise ApiError(400, f"The model was not taught {language!r}.", param="language")
        loop = asyncio.get_running_loop()
        cuts = await loop.run_in_executor(self._decoders, lambda: cut(decode(ask.file.head)))
        if language is not None:
            return RealRecording(ask, language, cuts, None, self)
        encoded, detected = await self.work(lambda: self._detect(cuts[0]))
        return RealRecording(ask, detected, cuts, encoded, self)

    async def work(self, task: Callable[[], T]) -> T:
        """Run one stretch's work when its turn comes."""
        self.waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        loop = asyncio.get_running_loop()
        job = loop.run_in_executor(self._worker, task)
        # What has begun cannot be stopped: the turn ends with the work, not with the client.
        job.add_done_callback(self._end_turn)
        return await asyncio.shield(job)

    def close(self) -> None:
        """End the worker threads."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _end_turn(self, job: "asyncio.Future[T]") -> None:
        self.running -= 1
        self._turn.release()
        if not job.cancelled():
            job.exception()  # somebody has looked at it, even if the client left

    def _detect(self, first: Cut) -> tuple[ctranslate2.StorageView, str]:
        encoded = self.model.encode(first.samples)
        return encoded, self.model.detect_language(encoded)


class RealRecording:
    """A decoded upload."""

    def __init__(
        self,
        ask: Ask,
        language: str,
        cuts: Sequence[Cut],
        first: ctranslate2.StorageView | None,
        listener: RealListener,
    ) -> None:
        self.language = language
        self.duration_s = cuts[-1].start_s + len(cuts[-1].samples) / RATE_HZ
        self._cuts = cuts
        self._first = first
        self._listener = listener
        self._request = Request(
            language, ask.task, ask.response_format == "verbose_json", ask.prompt, ask.temperature
        )

    async def hear(self) -> Sequence[Chunk]:
        """Return all stretches in their order."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._chunk(index)) for index in range(len(self._cuts))]
        return [task.result() for task in tasks]

    async def stream(self) -> AsyncIterator[AsyncIterator[str]]:
        """Return the stretches one after the other; the words of each come together."""
        for index in range(len(self._cuts)):
            yield self._words(index)

    async def _words(self, index: int) -> AsyncIterator[str]:
        chunk = await self._chunk(index)
        for word in _WORD.findall(chunk.text):
            yield word

    async def _chunk(self, index: int) -> Chunk:
        heard = await self._listener.work(lambda: self._hear(index))
        return Chunk(self._cuts[index].start_s, heard.text, heard.segments, heard.token_count)

    def _hear(self, index: int) -> Heard:
        samples = self._cuts[index].samples
        model = self._listener.model
        encoded = self._first if index == 0 and self._first is not None else model.encode(samples)
        return model.hear(encoded, len(samples) / RATE_HZ, self._request)
