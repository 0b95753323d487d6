"""Which way an upload is answered: whole by one engine, or in pieces by all of them."""

from __future__ import annotations

from typing import Final

from vllm_router.inbound.exchange import Exchange
from vllm_router.outbound.upload import Upload
from vllm_router.proxy.facts import RequestFacts
from vllm_router.proxy.long import LongAnswer
from vllm_router.proxy.means import Means
from vllm_router.proxy.story import Story
from vllm_router.proxy.whole import WholeAnswer
from vllm_router.proxy.wish import must_choose, read_wish
from vllm_router.wire.formats import (
    FORMATS,
)

#: What vLLM takes at most: `VLLM_MAX_AUDIO_CLIP_FILESIZE_MB` is 25.
ENGINE_FILE_BYTES: Final = 25 * 2**20
#: A length that was only estimated from bytes may be several times that: cut rather than fail.
ESTIMATE_FACTOR: Final = 0.5


class Transcriber:
    """Answers uploads.

    Args:
        means: What answers are made with.
    """

    def __init__(self, means: Means) -> None:
        self._means = means

    async def answer(
        self, exchange: Exchange, facts: RequestFacts, upload: Upload, story: Story
    ) -> None:
        """Answer one upload that has come whole.

        Raises:
            RouterError: To be told to the client; nothing has been sent.
        """
        head = exchange.head
        wish = read_wish(
            facts,
            self._means.rules.stream_format,
            head.header(b"x-stream-format"),
            head.header(b"x-priority"),
            self._means.rules.channels,
        )
        is_ours = wish.format is not None
        if is_ours and (
            must_choose(facts, wish, upload) or self._must_split(facts) or self._must_decode(facts)
        ):
            await LongAnswer(self._means, exchange, facts, wish, story).run(upload)
            return
        edits = []
        if facts.asked_model is not None and facts.asked_model != facts.model:
            edits = facts.form.replaced("model", facts.model.encode())
        whole = WholeAnswer(self._means, exchange, facts, wish, story, upload, edits)
        if wish.format is None:
            await whole.passed_through()
        elif wish.is_stream:
            await whole.streamed()
        elif FORMATS[wish.format].is_native and not wish.wants_words:
            await whole.verified()
        else:
            await whole.converted()
        self._means.lengths.measure(upload, facts, story)

    def _must_decode(self, facts: RequestFacts) -> bool:
        """Return whether the engines are known not to read the upload's container."""
        means = self._means
        return means.rules.split != "off" and means.containers.is_unreadable(
            facts.model, facts.kind, means.dispatcher.now()
        )

    def _must_split(self, facts: RequestFacts) -> bool:
        rules = self._means.rules
        if rules.split == "off":
            return False
        if rules.split == "always":
            return True
        bound_s = rules.split_longer_than_s
        if facts.is_estimated:
            bound_s *= ESTIMATE_FACTOR
        return facts.audio_s > bound_s or facts.file.end - facts.file.start > ENGINE_FILE_BYTES
