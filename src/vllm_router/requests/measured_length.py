"""The true length of a short upload that was charged to a key, if no answer contained it.

A header may understate the length, and an engine's events do not contain it: a client could stream
hours of audio and be charged for a moment. Such an upload is therefore decoded after its response,
and the charge is corrected. A WAV's length follows from its size.

Bounds: one upload at a time, and `MOST_WAITING` in the queue; further uploads keep their charge.

Does not know keys or quotas.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Final

from vllm_router.audio.length import MeasuredSeconds
from vllm_router.observability.request_record import RequestRecord
from vllm_router.requests.transcription_request import TranscriptionRequest
from vllm_router.spool.upload import Upload

log = logging.getLogger(__name__)

#: Each holds a copy of its upload, 25 MiB at most.
MOST_WAITING: Final = 4


class Lengths:
    """Measures uploads.

    Args:
        length_s: Returns the seconds of audio in the upload that a file holds; None: unknown.
        corrected: Called with the key's name, the seconds charged, and the true seconds.
    """

    def __init__(
        self,
        length_s: Callable[[TranscriptionRequest, int], Awaitable[MeasuredSeconds | None]],
        corrected: Callable[[str, float, MeasuredSeconds], None],
    ) -> None:
        self._length_s = length_s
        self._corrected = corrected
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def measure(self, upload: Upload, request: TranscriptionRequest, record: RequestRecord) -> None:
        """Correct an upload's charge, if it was charged and its length is still unknown."""
        holder, charged_s = record.holder, record.charged_s
        if holder is None or charged_s is None or record.audio_s is not None:
            return
        if len(self._tasks) > MOST_WAITING:
            return
        try:
            file = upload.file()
        except OSError as e:
            log.info("the length of request %s cannot be measured: %s", record.request_id, e)
            return
        task = asyncio.get_running_loop().create_task(
            self._measure(file, request, holder, charged_s)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _measure(
        self, file: int, request: TranscriptionRequest, holder: str, charged_s: float
    ) -> None:
        try:
            async with self._turn:
                true_s = await self._length_s(request, file)
        finally:
            os.close(file)
        if true_s is not None:
            self._corrected(holder, charged_s, true_s)
