"""Which way an upload is answered: whole by one engine, or in pieces by all of them."""

from __future__ import annotations

import logging
from typing import Final

from vllm_router.errors import UnknownAudioFormat, no_word_times
from vllm_router.inbound.exchange import Exchange
from vllm_router.outbound.upload import Upload
from vllm_router.policy.capabilities import UNKNOWN, Capabilities
from vllm_router.proxy.facts import RequestFacts
from vllm_router.proxy.long import LongAnswer
from vllm_router.proxy.means import Means
from vllm_router.proxy.story import Story
from vllm_router.proxy.whole import WholeAnswer
from vllm_router.proxy.wish import Wish, must_choose, read_wish
from vllm_router.wire.doubt import may_exceed
from vllm_router.wire.formats import (
    FORMATS,
    ResponseFormat,
)

log = logging.getLogger(__name__)

#: What vLLM takes at most, where nobody knows better: `VLLM_MAX_AUDIO_CLIP_FILESIZE_MB` is 25.
ENGINE_FILE_BYTES: Final = 25 * 2**20


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
        can = self._means.capabilities.of(facts.model)
        if wish.wants_words:
            if wish.format is not ResponseFormat.VERBOSE_JSON:
                # No other format has a place for them.
                wish = wish._replace(wants_words=False)
            elif can.verbose_json is False:
                raise no_word_times()
        must_choose_channels = must_choose(facts, wish, upload)
        if wish.format is not None and (
            must_choose_channels or self._must_take_apart(facts, wish, can)
        ):
            try:
                await LongAnswer(self._means, exchange, facts, wish, story).run(upload)
            except UnknownAudioFormat as e:
                # Engines read a few formats more. What is said of this one is for them to say.
                is_for_them = exchange.status is None and _size_bytes(facts) <= ENGINE_FILE_BYTES
                if must_choose_channels or not is_for_them:
                    raise
                log.info("request %s goes to an engine as it came: %s", story.request_id, e)
            else:
                return
        edits = []
        if facts.asked_model is not None and facts.asked_model != facts.model:
            edits = facts.form.replaced("model", facts.model.encode())
        left_out: tuple[str, ...] = ()
        is_blank = wish.language is None and facts.form.value("language") is not None
        if can.language is False or is_blank:
            # A form's empty field says nothing, and not every engine reads it so.
            left_out = ("language",)
        if facts.form.value("channels") is not None:
            # The router's own; an engine may refuse a field that it does not know.
            left_out = (*left_out, "channels")
        whole = WholeAnswer(
            self._means,
            exchange,
            facts,
            wish,
            story,
            upload,
            edits,
            left_out,
        )
        if wish.format is None:
            await whole.passed_through()
        elif wish.is_stream:
            await whole.streamed()
        elif FORMATS[wish.format].is_native and not wish.wants_words:
            await whole.verified()
        else:
            await whole.converted()
        self._means.lengths.measure(upload, facts, story)

    def _must_take_apart(self, facts: RequestFacts, wish: Wish, can: Capabilities) -> bool:
        """Return whether an upload is to be decoded and cut rather than sent as it is."""
        rules = self._means.rules
        if rules.split == "off":
            return False
        if rules.split == "always":
            return True
        bound_s = rules.split_longer_than_s
        hint, size_bytes = facts.hint, _size_bytes(facts)
        if hint.seconds > bound_s:
            return True
        if can is UNKNOWN and facts.measured_s is not None:
            return size_bytes > ENGINE_FILE_BYTES
        if not can.can_read(facts.kind):
            return True
        if can.max_file_bytes is None and size_bytes > ENGINE_FILE_BYTES:
            return True
        if not can.can_take(hint.seconds, size_bytes):
            return True
        if facts.measured_s is not None:
            return False
        if wish.wants_words or facts.damage is not None:
            # An engine's times of words are not the container's, and what is damaged it may refuse.
            return True
        most_s = bound_s if can.max_audio_s is None else min(bound_s, can.max_audio_s)
        return hint.doubt is not None and may_exceed(facts.kind, size_bytes, most_s)


def _size_bytes(facts: RequestFacts) -> int:
    return facts.file.end - facts.file.start
