"""Decide how to answer an upload: on one engine as a whole, or in pieces on all of them."""

from __future__ import annotations

import logging
from typing import Final

from vllm_router.audio.length_doubt import may_exceed
from vllm_router.errors import UnknownAudioFormat, no_word_times
from vllm_router.formats.formats import (
    FORMATS,
    ResponseFormat,
)
from vllm_router.observability.request_record import RequestRecord
from vllm_router.requests.options import (
    ResponseOptions,
    must_choose,
    read_response_options,
    reserved_seconds,
)
from vllm_router.requests.segmented import SegmentedAnswer
from vllm_router.requests.services import Services
from vllm_router.requests.single import SingleAnswer
from vllm_router.requests.transcription_request import TranscriptionRequest
from vllm_router.scheduling.capabilities import UNKNOWN, Capabilities
from vllm_router.server.exchange import Exchange
from vllm_router.spool.upload import Upload

log = logging.getLogger(__name__)

#: vLLM's default maximum, used while no other is known: `VLLM_MAX_AUDIO_CLIP_FILESIZE_MB` is 25.
ENGINE_FILE_BYTES: Final = 25 * 2**20


class Transcriber:
    """Answers uploads.

    Args:
        services: Shared services.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    def reserved_seconds(self, request: TranscriptionRequest, upload: Upload) -> float:
        """Return the seconds charged to a key until the upload is measured; see `options`."""
        return reserved_seconds(request, upload, self._services.rules.channels)

    async def answer(
        self,
        exchange: Exchange,
        request: TranscriptionRequest,
        upload: Upload,
        record: RequestRecord,
    ) -> None:
        """Answer one complete upload.

        Raises:
            RouterError: The error to return to the client; nothing has been sent.
        """
        head = exchange.head
        options = read_response_options(
            request,
            self._services.rules.stream_format,
            head.header(b"x-stream-format"),
            head.header(b"x-priority"),
            self._services.rules.channels,
        )
        can = self._services.capabilities.of(request.model)
        if options.wants_words:
            if options.format is not ResponseFormat.VERBOSE_JSON:
                # No other format can hold them.
                options = options._replace(wants_words=False)
            elif can.verbose_json is False:
                raise no_word_times()
        must_choose_channels = must_choose(request, options, upload)
        if options.format is not None and (
            must_choose_channels or self._must_take_apart(request, options, can)
        ):
            try:
                await SegmentedAnswer(self._services, exchange, request, options, record).run(
                    upload
                )
            except UnknownAudioFormat as e:
                # Engines read a few more formats, so they decide about this one.
                is_for_them = exchange.status is None and _size_bytes(request) <= ENGINE_FILE_BYTES
                if must_choose_channels or not is_for_them:
                    raise
                log.info("request %s is sent to an engine undecoded: %s", record.request_id, e)
            else:
                return
        edits = []
        if request.asked_model is not None and request.asked_model != request.model:
            edits = request.form.replaced("model", request.model.encode())
        left_out: tuple[str, ...] = ()
        is_blank = options.language is None and request.form.value("language") is not None
        if can.language is False or is_blank:
            # An empty field has no meaning, but not every engine ignores it.
            left_out = ("language",)
        if request.form.value("channels") is not None:
            # Only the router knows this field; an engine may refuse unknown fields.
            left_out = (*left_out, "channels")
        whole = SingleAnswer(
            self._services,
            exchange,
            request,
            options,
            record,
            upload,
            edits,
            left_out,
        )
        if options.format is None:
            await whole.passed_through()
        elif options.is_stream:
            await whole.streamed()
        elif FORMATS[options.format].is_native and not options.wants_words:
            await whole.verified()
        else:
            await whole.converted()
        self._services.lengths.measure(upload, request, record)

    def _must_take_apart(
        self, request: TranscriptionRequest, options: ResponseOptions, can: Capabilities
    ) -> bool:
        """Return whether an upload must be decoded and split rather than sent unchanged."""
        rules = self._services.rules
        if rules.split == "off":
            return False
        if rules.split == "always":
            return True
        bound_s = rules.split_longer_than_s
        hint, size_bytes = request.hint, _size_bytes(request)
        if hint.seconds > bound_s:
            return True
        if can is UNKNOWN and request.measured_s is not None:
            return size_bytes > ENGINE_FILE_BYTES
        if not can.can_read(request.kind):
            return True
        if can.max_file_bytes is None and size_bytes > ENGINE_FILE_BYTES:
            return True
        if not can.can_take(hint.seconds, size_bytes):
            return True
        if request.measured_s is not None:
            return False
        if options.wants_words or request.damage is not None:
            # Engines' word timestamps may differ from the container's times, and engines may
            # refuse damaged files.
            return True
        most_s = bound_s if can.max_audio_s is None else min(bound_s, can.max_audio_s)
        return hint.doubt is not None and may_exceed(request.kind, size_bytes, most_s)


def _size_bytes(request: TranscriptionRequest) -> int:
    return request.file.end - request.file.start
