"""The true length of a short upload that was charged to a key, where no answer has told it.

A header may say less than there is, and an engine's events tell no length: whoever asks for a
stream could send any audio as a moment's. So such an upload is decoded after its answer, and the
charge corrected. A WAV's length follows from its size.

Bounds: one upload at a time, and `MOST_WAITING` that wait for it; those beyond keep their charge.

Refuses to know: keys and their bounds.
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
        length_s: Returns the seconds of audio in the upload that a file holds; None: not known.
        corrected: Told the key's name, the seconds that were charged to it, and the true ones.
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
        """Correct what an upload was charged, if it was and if nothing has told its length yet."""
        holder, charged_s = record.holder, record.charged_s
        if holder is None or charged_s is None or record.audio_s is not None:
            return
        if len(self._tasks) > MOST_WAITING:
            return
        try:
            file = upload.file()
        except OSError as e:
            log.info("request %s cannot be measured: %s", record.request_id, e)
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
