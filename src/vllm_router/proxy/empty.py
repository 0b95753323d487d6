"""Answers without a word, where the audio has sound in it: counted, and one line in the log.

Such an answer is a 200, and nobody who reads it can tell it from silence. Whether there is sound is
known of long audio, which has been decoded. A short upload is decoded for it, after its answer and
beside everything else; only where the answer is empty, so that all others pay for a look at a few
of its bytes.

Bounds: `MAX_LOOKS` uploads are looked at a time, and empty answers that come meanwhile are not.
The count is then too low, never too high.

Refuses to know: why there are no words.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Final

from vllm_router.outbound.answer import Answer
from vllm_router.outbound.upload import Upload
from vllm_router.proxy.facts import RequestFacts
from vllm_router.proxy.story import Story
from vllm_router.wire.media_type import is_type
from vllm_router.wire.speech import Span

log = logging.getLogger(__name__)

#: A client that sends nothing but silence must not keep the decoders from others' long audio.
MAX_LOOKS: Final = 1
#: A longer answer has words. An empty verbose_json with its usage and parameters has some 250.
LONGEST_BYTES: Final = 512
_TEXT: Final = b'"text":'


def is_empty(answer: Answer) -> bool:
    """Return whether an engine's whole 200 holds no word, in whichever format that it has."""
    body = answer.body
    if body is None or answer.status != 200 or len(body) > LONGEST_BYTES:
        return False
    if not is_type(answer.header(b"content-type"), b"application/json"):
        return not body.strip()
    at = body.find(_TEXT)
    return at >= 0 and body[at + len(_TEXT) :].lstrip()[1:].lstrip().startswith(b'"')


class EmptyTranscripts:
    """Counts them.

    Args:
        speech: Returns where there is sound in the upload that a file holds; None: it is not known.
        counted: Told the model of each.
    """

    def __init__(
        self,
        speech: Callable[[RequestFacts, int], Awaitable[list[Span] | None]],
        counted: Callable[[str], None],
    ) -> None:
        self._speech = speech
        self._counted = counted
        self._looks: set[asyncio.Task[None]] = set()

    def note(self, facts: RequestFacts, story: Story, sound_s: float) -> None:
        """Count an answer to an audio that has so many seconds of sound."""
        self._counted(facts.model)
        log.warning(
            "request %s: no words came of %.1f s of audio with %.1f s of sound, from %s",
            story.request_id,
            facts.audio_s,
            sound_s,
            ", ".join(story.engines[:16]),
        )

    def look(self, upload: Upload, facts: RequestFacts, story: Story) -> None:
        """Find out whether a short upload that was answered without a word has sound in it."""
        if len(self._looks) >= MAX_LOOKS:
            return
        try:
            file = upload.file()
        except OSError as e:
            log.info("request %s cannot be looked at for sound: %s", story.request_id, e)
            return
        look = asyncio.get_running_loop().create_task(self._look(file, facts, story))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def _look(self, file: int, facts: RequestFacts, story: Story) -> None:
        try:
            spans = await self._speech(facts, file)
        finally:
            os.close(file)
        if spans:
            self.note(facts, story, sum(span.end_s - span.start_s for span in spans))
