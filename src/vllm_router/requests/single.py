"""An upload that goes to one engine as a whole: passed through, converted, or streamed.

Formats that the engine supports are passed on unchanged; others are made from its transcript.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from vllm_router.audio.length import MeasuredSeconds
from vllm_router.errors import (
    EngineFailed,
    EnginesDied,
    RouterError,
    UnreadableAudio,
    UnsupportedValue,
    no_word_times,
)
from vllm_router.formats.coverage import is_ample
from vllm_router.formats.engine_error import EngineRefused
from vllm_router.formats.formats import FORMATS, ResponseFormat
from vllm_router.formats.json_text import JsonObject
from vllm_router.formats.leading_space import StreamStart, without_leading_space
from vllm_router.formats.media_type import is_type
from vllm_router.formats.reported_seconds import confirmed_seconds, told_seconds
from vllm_router.formats.sse import encode
from vllm_router.formats.stream_events import (
    ChunkTranslator,
    StreamState,
    delta_event,
    with_warning,
)
from vllm_router.formats.transcript import (
    BadTranscript,
    Transcript,
    duration_usage,
    joined,
    read_transcript,
)
from vllm_router.formats.usage_seconds import with_whole_seconds
from vllm_router.observability.request_record import RequestRecord
from vllm_router.requests.attempt import MAX_REFUSAL_BYTES, Attempt
from vllm_router.requests.event_stream import EventStream
from vllm_router.requests.headers import engine_headers
from vllm_router.requests.options import ResponseOptions, StreamFormat
from vllm_router.requests.pieces import SpeechMap
from vllm_router.requests.relay import TRANSCRIPT_BYTES, UploadBody, pass_on, understood
from vllm_router.requests.segmented import SegmentedAnswer, answer_headers, warning_headers
from vllm_router.requests.services import Services, known_length, require_words
from vllm_router.requests.speech_check import SpeechCheck
from vllm_router.requests.transcription_request import TranscriptionRequest
from vllm_router.scheduling.capabilities import LEAST_AUDIO_S, LEAST_FILE_BYTES
from vllm_router.scheduling.capability_book import REFUSALS
from vllm_router.scheduling.engine import Engine
from vllm_router.scheduling.work import OutcomeKind, Ticket, windows_of
from vllm_router.server.exchange import Exchange
from vllm_router.spool.multipart import Edit, Form
from vllm_router.spool.upload import Upload
from vllm_router.upstream.answer import Answer
from vllm_router.upstream.call import (
    CallFailed,
    ConnectionBroke,
)
from vllm_router.upstream.http_client import WHOLE_BYTES
from vllm_router.upstream.refusal import REFUSED, EngineRefusal, RefusalKind, read_refusal

log = logging.getLogger(__name__)

#: Statuses with which engines answer files that they cannot read or that are too large for them.
_PERHAPS_UNREADABLE: Final = frozenset({*REFUSED, 500})
#: Refusals because of size or length: an engine may accept a part of the upload.
_OF_SIZE: Final = frozenset({RefusalKind.TOO_LONG, RefusalKind.TOO_LARGE, RefusalKind.TOO_MUCH})
#: Statuses with which engines answer fields that they do not understand.
_NOT_UNDERSTOOD: Final = frozenset({400, 404, 422, 501})
#: Fields that are not sent with pieces and whose values were not checked.
_UNCHECKED: Final = frozenset(
    {
        "stream",
        "stream_include_usage",
        "stream_continuous_usage_stats",
        "chunking_strategy",
        "known_speaker_names",
        "known_speaker_names[]",
        "known_speaker_references",
        "known_speaker_references[]",
    }
)
_LONGEST_TRUTH: Final = len("false")
#: Headers that are valid only for the engine's exact bytes.
_OF_THE_BYTES: Final = frozenset({b"etag", b"digest", b"content-digest", b"content-md5"})


class SingleAnswer:
    """The response to one upload that goes to one engine as a whole."""

    def __init__(
        self,
        services: Services,
        exchange: Exchange,
        request: TranscriptionRequest,
        options: ResponseOptions,
        record: RequestRecord,
        upload: Upload,
        edits: list[Edit],
        left_out: tuple[str, ...] = (),
    ) -> None:
        self._services = services
        self._exchange = exchange
        self._request = request
        self._options = options
        self._record = record
        self._upload = upload
        self._edits = edits
        self._left_out = left_out
        self._tells_language = options.language is not None and "language" not in left_out
        # Whether a refusal may be about `verbose_json`.
        self._may_lack_format = True
        self._made_check: SpeechCheck | None = None

    @property
    def _check(self) -> SpeechCheck:
        """Checks the answer against the speech; created on first use, which is rare."""
        check = self._made_check
        if check is None:
            # Created only once: a second one would repeat the measurement in progress.
            check = self._made_check = SpeechCheck(
                self._services,
                self._exchange,
                self._request,
                self._options,
                self._record,
                self._upload,
            )
        return check

    async def _attempt(
        self,
        more: Sequence[Edit] = (),
        read: Callable[[bytes], object] | None = None,
        after: Attempt | None = None,
        *,
        is_verbose: bool = False,
        takes_refusals: bool = False,
    ) -> Attempt:
        """Get an engine's answer.

        Args:
            more: Edits to the form, in addition to those for every engine.
            read: Parses the body of a 200.
            after: A previous attempt, whose place in the queue this one keeps.
            is_verbose: Whether the request is for `verbose_json`.
            takes_refusals: Whether to return the refusal of a field; otherwise `_asked_otherwise`
                handles it.
        """
        relay, request, record = self._services.relay, self._request, self._record
        edits = [*self._edits, *more]
        if self._left_out:
            edits += request.form.removed(*self._left_out)
        body = UploadBody.edited(self._upload, edits)
        headers = engine_headers(self._exchange, relay.engine_key)
        path = b"/v1/audio/" + request.task.encode()
        # A format that only the engine knows is passed on as it arrives.
        whole_bytes = WHOLE_BYTES if self._options.format is None else TRANSCRIPT_BYTES

        ticket = self._ticket() if after is None else after.ticket
        trace = ticket.trace

        def send(engine: Engine) -> Awaitable[Answer]:
            record.given_to(engine.engine_id)
            sent = headers if trace is None else trace.attempt(engine.engine_id, headers)
            call = relay.send(
                engine, path, record.request_id, sent, body, request.hint.seconds, whole_bytes
            )
            return call if read is None else understood(call, read)

        attempt = await self._services.dispatcher.attempt(ticket, send)
        record.queue_s += attempt.waited_s
        record.windows += ticket.windows
        answer = attempt.answer
        if answer.status == 200:
            self._note_success(is_verbose)
            if record.audio_s is None and answer.body is not None:
                told_s = told_seconds(answer.body)
                if told_s is not None:
                    self._note_length(attempt, told_s)
            if record.audio_s is not None:
                attempt.charge.measured_s = record.audio_s
        elif answer.status in REFUSED and not takes_refusals:
            return await self._asked_otherwise(attempt, more, read, is_verbose)
        return attempt

    def _note_length(self, attempt: Attempt, told_s: float) -> None:
        """Accept an engine's statement of the upload's length, if nothing contradicts it.

        If the container contradicts it, a short upload is decoded: engines do not count gaps.
        """
        record = self._record
        record.audio_s = confirmed_seconds(self._request.hint, told_s)
        if record.audio_s is not None:
            return
        length_s = MeasuredSeconds(told_s)
        attempt.charge.measured_s = length_s
        if told_s > self._services.rules.split_longer_than_s:
            record.audio_s = length_s
        else:
            self._check.told_s = length_s

    def _note_success(self, is_verbose: bool) -> None:
        request, capabilities = self._request, self._services.capabilities
        has_language = self._tells_language
        if capabilities.is_news(request.kind, has_language=has_language, is_verbose=is_verbose):
            capabilities.accepted(
                request.model,
                request.kind,
                request.measured_s or 0.0,
                request.file.end - request.file.start,
                has_language=has_language,
                is_verbose=is_verbose,
            )

    async def _asked_otherwise(
        self,
        first: Attempt,
        edits: Sequence[Edit],
        read: Callable[[bytes], object] | None,
        is_verbose: bool,
    ) -> Attempt:
        """Return another answer if an attempt refuses a field and the field was the reason.

        The refusal is accepted only if a second engine of the model agrees. If both refuse
        `language`, the upload is sent without it.
        """
        kind = self._read_refusal(first, is_verbose=is_verbose).kind
        if kind is not RefusalKind.FORMAT and kind is not RefusalKind.LANGUAGE:
            return first
        capabilities, ticket = self._services.capabilities, first.ticket
        # If two refusals were required to show the answer, both have been given.
        refusing = [*first.refused_by]
        last = first
        ticket.excluded.update(refusing)
        if (
            len(refusing) < REFUSALS
            and not self._is_known(kind)
            and self._services.dispatcher.fleet.is_ready_for(ticket)
        ):
            first.close(first.kind)
            last = await self._attempt(
                edits, read, first, is_verbose=is_verbose, takes_refusals=True
            )
            if self._read_refusal(last, is_verbose=is_verbose).kind is not kind:
                return last
            refusing += last.refused_by
        if kind is RefusalKind.FORMAT:
            return await self._believed(last, refusing)
        last.close(last.kind)
        ticket.excluded -= set(refusing)
        self._tells_language = False
        ticket.kind = self._kind()
        self._left_out = (*self._left_out, "language")
        last = await self._attempt(edits, read, last, is_verbose=is_verbose, takes_refusals=True)
        if last.answer.status == 200:
            # The field was indeed the reason.
            for engine_id in refusing:
                capabilities.refused_language(ticket, engine_id)
        return last

    async def _believed(self, refused: Attempt, refusing: Sequence[str]) -> Attempt:
        """Return the answer to show after `verbose_json` appears to have been refused.

        Engines quote the value that they refuse: a temperature of "verbose_json" is refused in the
        same words. The format was the reason only if the upload passes with another one.
        """
        ticket = refused.ticket
        if self._is_known(RefusalKind.FORMAT):
            return refused
        refused.close(refused.kind)
        ticket.excluded -= set(refusing)
        other = await self._attempt(
            self._asking(ResponseFormat.JSON), None, refused, takes_refusals=True
        )
        if other.answer.status != 200:
            self._may_lack_format = False
            return other
        other.close(OutcomeKind.OK)
        for engine_id in refusing:
            self._services.capabilities.refused_format(ticket, engine_id)
        return refused

    def _is_known(self, kind: RefusalKind) -> bool:
        can = self._services.capabilities.of(self._request.model)
        is_able = can.language if kind is RefusalKind.LANGUAGE else can.verbose_json
        return is_able is False

    def _read_refusal(self, attempt: Attempt, *, is_verbose: bool) -> EngineRefusal:
        # A refusal that does not arrive at once is a page or worse, not a sentence.
        said = attempt.answer.body or b""
        return read_refusal(
            attempt.answer.status,
            said,
            asked_format="verbose_json" if is_verbose and self._may_lack_format else None,
            language=self._options.language if self._tells_language else None,
        )

    def _ticket(self) -> Ticket:
        services, request, record = self._services, self._request, self._record
        return Ticket(
            request_id=record.request_id,
            model=request.model,
            audio_s=request.hint.seconds,
            windows=windows_of(request.hint.seconds),
            urgency=services.urgency(request, self._options),
            enqueued_at=services.dispatcher.now(),
            session_key=services.session_key(self._exchange),
            trace=None if record.trace is None else record.trace.work(),
            kind=self._kind(),
        )

    def _kind(self) -> str:
        """Return the upload's demands that not all engines may meet; see `Ticket.kind`."""
        container = self._request.kind
        kind = "" if container == "wav" else container
        return f"{kind}+language" if self._tells_language else kind

    async def passed_through(self) -> None:
        """Pass the engine's answer on unchanged.

        Raises:
            UnsupportedValue: Diarization was requested, and the engine does not support it.
        """
        with self._check.measuring():
            attempt = await self._attempt()
            if self._options.is_diarized and attempt.answer.status in _NOT_UNDERSTOOD:
                await _require_speakers(attempt)
            await self._pass_on(attempt)

    async def verified(self) -> None:
        """Pass the engine's JSON on unchanged, unless its words are implausible for the audio."""
        attempt = await self._attempt()
        answer = attempt.answer
        if answer.status != 200:
            await self._refused(attempt)
            return
        body = answer.body
        if self._record.audio_s is None:
            # Older engines do not state the length, and others may contradict the container.
            if body is not None:
                attempt.close(attempt.kind)
            await self._check.length()
        if body is None or is_ample(body, self._record.audio_s or self._request.hint.seconds):
            await self._pass_on(attempt)
            return
        transcript = _transcript_in(body, self._request)
        if transcript is None or not self._check.may_lack_words(transcript.text):
            await self._pass_on(attempt)
            return
        # The engine is done. A second transcription may need the very slot that it held.
        attempt.close(OutcomeKind.OK)
        checked = await self._check.checked(transcript, await self._check.speech())
        if checked is transcript:
            await self._pass_on(attempt)
        else:
            await self._respond(checked, None)

    async def _refused(self, attempt: Attempt, stream: EventStream | None = None) -> None:
        """Respond to an upload that an engine refused, by decoding it here if that helps.

        Engines differ in the containers that they read and in the size that they accept. They
        answer 400 or 500 to unreadable files, and also 500 to audio in which the model finds no
        words or no language.
        """
        request, status = self._request, attempt.answer.status
        if self._services.rules.split == "off" or status not in _PERHAPS_UNREADABLE:
            await self._show_refusal(attempt, stream)
            return
        refusal = self._read_refusal(attempt, is_verbose=False)
        is_of_size = refusal.kind in _OF_SIZE
        if is_of_size and (stream is None or not stream.is_begun):
            await self._taken_apart(attempt, refusal, stream)
            return
        # The router would send it as WAV: an engine that answers 400 to WAV has another reason.
        is_worth_it = is_of_size or request.kind != "wav"
        if not is_worth_it and not (status == 500 and self._may_listen(refusal)):
            await self._show_refusal(attempt, stream)
            return
        await self._close_refused(attempt)
        try:
            transcript = await self._check.in_pieces()
            if not self._record.pieces and request.kind != "wav":
                # There is no speech. Whether the engine accepts the audio as WAV is still unknown.
                transcript = await self._check.in_pieces(skip_silence=False)
            require_words(self._options, transcript)
        except UnreadableAudio as e:
            if status >= 500:
                raise
            log.info("request %s: the router cannot decode it: %s", self._record.request_id, e)
            await self._show_refusal(attempt, stream)
            return
        except RouterError:
            await self._show_refusal(attempt, stream)
            return
        if is_of_size:
            self._note_limit(attempt, refusal)
        elif refusal.kind is not RefusalKind.NO_WORDS and not self._record.damage:
            # Engines tolerate less damage; that says nothing about intact files.
            self._services.capabilities.refused_container(
                attempt.ticket, attempt.engine_id, request.kind, status
            )
        if not transcript.text and self._record.speech_s:
            self._services.counts.note_empty(request.model, self._record)
        if stream is None:
            await self._respond(transcript, None)
        else:
            await self._send(stream, transcript, None)

    async def _close_refused(self, attempt: Attempt) -> None:
        """Release an engine that refused, but keep its answer in order to show it later."""
        try:
            await attempt.answer.read(MAX_REFUSAL_BYTES)
        except CallFailed:
            # The status is known; the refusal's text is not.
            attempt.answer.body = b""
        # The engine is done. The pieces may need the very slot that it held.
        attempt.close(attempt.kind)

    def _may_listen(self, refusal: EngineRefusal) -> bool:
        """Return whether an upload answered 500, although it is WAV, is worth decoding.

        A fleet that answers everything with 500 must not get twice the work for it.
        """
        if refusal.kind is RefusalKind.NO_WORDS:
            return True
        dispatcher = self._services.dispatcher
        return self._services.rules.verifies and dispatcher.fleet.may_retry(dispatcher.now())

    async def _taken_apart(
        self, attempt: Attempt, refusal: EngineRefusal, stream: EventStream | None
    ) -> None:
        """Respond to an upload that was too large for an engine, from pieces of it."""
        if stream is not None:
            stream.give_way()
        await self._close_refused(attempt)
        answer = SegmentedAnswer(
            self._services, self._exchange, self._request, self._options, self._record
        )
        try:
            await answer.run(self._upload)
        except EngineRefused:
            # Pieces are refused too, so the upload's size is not the reason, whatever was said.
            await self._pass_on(attempt)
            return
        self._note_limit(attempt, refusal)

    def _note_limit(self, attempt: Attempt, refusal: EngineRefusal) -> None:
        """Record the limit by which an engine refused a valid upload.

        Exceptions: limits that pieces would exceed too, since engines have just accepted pieces;
        and limits that may be quoted from a field that is not sent with pieces.
        """
        request, capabilities = self._request, self._services.capabilities
        ticket, limit = attempt.ticket, refusal.limit
        if not _is_plain(request.form):
            return
        if refusal.kind is RefusalKind.TOO_LONG:
            length_s = self._record.audio_s
            if length_s is None:
                return
            if limit is None:
                # All that is known is that this length is too long.
                limit = math.nextafter(length_s, 0.0)
            if LEAST_AUDIO_S <= limit < length_s:
                for engine_id in attempt.refused_by:
                    capabilities.refused_length(ticket, engine_id, limit)
        elif refusal.kind is RefusalKind.TOO_LARGE:
            size_bytes = request.file.end - request.file.start
            limit = size_bytes - 1 if limit is None else limit
            if LEAST_FILE_BYTES <= limit < size_bytes:
                for engine_id in attempt.refused_by:
                    capabilities.refused_size(ticket, engine_id, limit)

    async def _show_refusal(self, attempt: Attempt, stream: EventStream | None) -> None:
        if stream is not None:
            if stream.is_begun:
                raise await _refusal(attempt)
            stream.give_way()
        await self._pass_on(attempt)

    async def _pass_on(self, attempt: Attempt) -> None:
        answer = attempt.answer
        start: StreamStart | None = None
        if self._record.damage and answer.status == 200:
            self._exchange.extra += warning_headers(self._record)
        # In a format that only the engine knows, white space may be significant.
        if self._options.format is not None and answer.status == 200:
            if answer.body is None:
                start = StreamStart()
            else:
                _trim(answer, answer.body, self._record.audio_s)
        try:
            with attempt:
                await pass_on(self._exchange, attempt, start)
        except CallFailed:
            self._record.error = "engine_broke_off"
            if not self._exchange.is_complete:
                self._exchange.abort()

    async def converted(self) -> None:
        """Respond in a format that is made from the engine's transcript."""
        answered = await self._answered()
        if answered is not None:
            await self._respond(*answered)

    async def _respond(self, transcript: Transcript, speech: SpeechMap | None) -> None:
        assert self._options.format is not None
        transcript = await self._check.timed(transcript, speech)
        spans = None if speech is None else speech.spans
        body = self._services.written(transcript, self._request, self._options, spans)
        headers = [
            (b"content-type", FORMATS[self._options.format].content_type.encode()),
            *answer_headers(self._record),
        ]
        self._exchange.respond(200, headers, body)

    async def _answered(
        self, stream: EventStream | None = None
    ) -> tuple[Transcript, SpeechMap | None] | None:
        """Return the verified transcript and its speech; None: the client has its response."""
        options = self._options
        if options.wants_words:
            attempt, transcript = await self._transcript(ResponseFormat.VERBOSE_JSON)
            if transcript is None:
                await self._refused_words(attempt, stream)
                return None
            require_words(options, transcript)
            return transcript, None
        if not options.needs_times:
            attempt, transcript = await self._transcript(ResponseFormat.JSON)
            if transcript is None:
                await self._refused(attempt, stream)
                return None
            if not self._check.may_lack_words(transcript.text):
                return transcript, None
            found = await self._check.speech()
            return await self._check.checked(transcript, found), found
        (attempt, transcript), found = await self._check.beside_speech(
            self._transcript(ResponseFormat.JSON)
        )
        if transcript is None:
            await self._refused(attempt, stream)
            return None
        if not self._check.may_lack_words(transcript.text):
            # Text that passes as plain JSON passes here too: formats must not differ in words.
            return transcript, found
        return await self._check.checked(transcript, found), found

    async def _refused_words(self, attempt: Attempt, stream: EventStream | None) -> None:
        """Respond to an upload that was refused when word timestamps were requested.

        Raises:
            UnsupportedValue: The engine provides none.
        """
        if attempt.answer.status in REFUSED:
            refusal = self._read_refusal(attempt, is_verbose=True)
            if refusal.kind is RefusalKind.FORMAT:
                attempt.close(attempt.kind)
                raise no_word_times()
        await self._refused(attempt, stream)

    async def _transcript(self, asked: ResponseFormat) -> tuple[Attempt, Transcript | None]:
        """Return the engine's transcript; None: it refused, and the attempt is still open."""
        heard: list[Transcript] = []

        def read(answer: bytes) -> None:
            heard.append(read_transcript(answer, known_length(self._request)))

        attempt = await self._attempt(
            self._asking(asked), read, is_verbose=asked is ResponseFormat.VERBOSE_JSON
        )
        if attempt.answer.status != 200:
            return attempt, None
        attempt.close(OutcomeKind.OK)
        transcript = heard[-1]
        if transcript.usage is None and transcript.duration_s is not None:
            transcript = joined([transcript], transcript.duration_s)
        return attempt, transcript

    def _asking(self, asked: ResponseFormat) -> list[Edit]:
        """Return the edits that request a format, without streaming."""
        form = self._request.form
        edits = form.replaced("response_format", asked.value.encode())
        for name in ("stream", "stream_include_usage", "stream_continuous_usage_stats"):
            edits += form.changed(name, b"false")
        return edits

    async def streamed(self) -> None:
        """Respond with events."""
        options = self._options
        assert options.format is not None
        if options.needs_times or not FORMATS[options.format].engine_streams:
            await self._streamed_at_once()
        elif options.stream_format is StreamFormat.VLLM:
            await self._streamed_as_it_is()
        else:
            await self._streamed_through()

    async def _streamed_as_it_is(self) -> None:
        """Pass the engine's own events on."""
        attempt = await self._attempt()
        if attempt.answer.status == 200:
            await self._pass_on(attempt)
            return
        with EventStream(self._exchange, self._record) as stream:
            await self._refused(attempt, stream)

    async def _streamed_at_once(self) -> None:
        """Send a format that the engine cannot stream as events, once the answer is complete."""
        with EventStream(self._exchange, self._record) as stream:
            answered = await self._answered(stream)
            if answered is not None:
                await self._send(stream, *answered)

    async def _send(
        self, stream: EventStream, transcript: Transcript, speech: SpeechMap | None
    ) -> None:
        for name, value in answer_headers(self._record):
            stream.set_header(name, value)
        rendering = self._services.rendering(self._request, self._options, self._record)
        transcript = await self._check.timed(transcript, speech)
        await stream.send(rendering.add(transcript, None if speech is None else speech.spans))
        await stream.send(rendering.end(transcript.usage, warning=self._record.warning))
        stream.end()

    async def _streamed_through(self) -> None:
        """Convert the engine's events to OpenAI's as they arrive.

        If the stream breaks off, it fails over to another engine, which transcribes the whole
        upload. Text that the client has received is not sent again.
        """
        with self._check.measuring(), EventStream(self._exchange, self._record) as stream:
            told = broken = ""
            before: Attempt | None = None
            failures = 0
            while True:
                try:
                    attempt = await self._attempt(after=before)
                except EnginesDied:
                    raise
                except EngineFailed as e:
                    if before is None:
                        raise
                    raise EngineFailed(broken) from e
                if not is_type(attempt.answer.header(b"content-type"), b"text/event-stream"):
                    if stream.is_begun:
                        await self._told_at_once(attempt, stream, told)
                    else:
                        await self._refused(attempt, stream)
                    return
                for name, value in warning_headers(self._record):
                    stream.set_header(name, value)
                stream.set_header(b"x-engine-id", attempt.engine_id.encode())
                translator = ChunkTranslator(known_length(self._request), told=told)
                done: list[JsonObject] = []
                detail = await _translated(attempt, translator, stream, done)
                if detail is None:
                    if translator.state is StreamState.FAILED:
                        self._record.error = EngineFailed.code
                    await stream.send(b"".join([await self._checked_end(event) for event in done]))
                    stream.end()
                    return
                told = translator.told
                broken = f"The engine's response broke off: {detail}."
                before = attempt
                failures += 1
                if not self._services.dispatcher.may_go_on(attempt, failures):
                    raise EngineFailed(broken)

    async def _checked_end(self, done: JsonObject) -> bytes:
        """Return a stream's last events, including words that the engine left out, if any.

        Text that was sent cannot be retracted. If a second transcript continues it, the rest
        follows as a delta; in any case the last event holds the complete text.
        """
        usage = done.get("usage")
        if usage is None or (isinstance(usage, Mapping) and usage.get("type") == "duration"):
            measured = duration_usage(await self._check.length())
            done = done if measured is None else {**done, "usage": measured}
        done = with_warning(done, self._record.warning)
        text = done.get("text")
        if not isinstance(text, str) or not self._check.may_lack_words(text):
            return encode(done)
        found = await self._check.speech()
        checked = await self._check.checked(Transcript(text), found)
        if checked.text == text:
            return encode(done)
        rest = b""
        if checked.text.startswith(text):
            rest = encode(delta_event(checked.text[len(text) :]))
        return rest + encode({**done, "text": checked.text})

    async def _told_at_once(self, attempt: Attempt, stream: EventStream, told: str) -> None:
        """End a stream that has begun with the answer of an engine that does not stream.

        Some engines ignore `stream`. Their answer is passed on unchanged while nothing was sent. A
        slow answer arrives after the client has received keep-alive comments or part of the text.

        Raises:
            RouterError: The answer is a refusal, or is not a transcript.
        """
        if attempt.answer.status != 200:
            if told:
                raise await _refusal(attempt)
            await self._refused(attempt, stream)
            return
        try:
            with attempt:
                answer = await attempt.answer.read()
        except CallFailed as e:
            raise EngineFailed(f"The engine's response broke off: {e}.") from e
        length_s = known_length(self._request)
        if is_type(attempt.answer.header(b"content-type"), b"text/plain"):
            text, usage = answer.decode("utf-8", "replace").strip(), None
        else:
            try:
                transcript = read_transcript(answer, length_s)
            except BadTranscript as e:
                raise EngineFailed(f"{attempt.engine_id} answered without events: {e}.") from e
            text, usage = transcript.text, transcript.usage
        translator = ChunkTranslator(length_s, told=told)
        events = translator.feed_whole(text, usage)
        if translator.state is StreamState.FAILED:
            self._record.error = EngineFailed.code
        for event in events:
            is_last = event.get("type") == "transcript.text.done"
            await stream.send(await self._checked_end(event) if is_last else encode(event))
        stream.end()


async def _require_speakers(attempt: Attempt) -> None:
    """Reject a format that the engine does not support because it lacks diarization.

    Raises:
        UnsupportedValue: The engine does not support diarization.
    """
    try:
        said = await attempt.answer.read(MAX_REFUSAL_BYTES)
    except CallFailed:
        attempt.answer.body = said = b""
    if b"response_format" in said or b"diarized" in said:
        attempt.close(attempt.kind)
        raise UnsupportedValue(
            "The engines do not support diarization ('response_format=diarized_json'). If each "
            "speaker has a channel, add 'channels=each'; otherwise use 'verbose_json'.",
            param="response_format",
        )


def _is_plain(form: Form) -> bool:
    """Return whether the fields that are not sent with pieces hold nothing but plain booleans.

    Engines quote the value that they refuse, and it may read like a limit.
    """
    return all(
        part.value is None or part.name not in _UNCHECKED or len(part.value) <= _LONGEST_TRUTH
        for part in form.parts
    )


def _trim(answer: Answer, body: bytes, length_s: MeasuredSeconds | None) -> None:
    """Edit an engine's answer to match OpenAI's: no space before the text, whole seconds."""
    edited = with_whole_seconds(without_leading_space(body), length_s)
    if edited is not body:
        answer.body = edited
        answer.headers = [header for header in answer.headers if header[0] not in _OF_THE_BYTES]


def _transcript_in(body: bytes, request: TranscriptionRequest) -> Transcript | None:
    """Return the transcript in an engine's JSON; None: it is not a transcript."""
    try:
        return read_transcript(body, known_length(request))
    except BadTranscript:
        return None


async def _refusal(attempt: Attempt) -> RouterError:
    """Return an engine's answer as an error for a client whose stream has begun."""
    said = await attempt.refusal()
    if attempt.answer.status < 400:
        return EngineFailed(f"{attempt.engine_id} answered without events.")
    return said


async def _translated(
    attempt: Attempt, translator: ChunkTranslator, stream: EventStream, done: list[JsonObject]
) -> str | None:
    """Pass an engine's events on, except the last; return why they broke off, None if complete.

    Args:
        attempt: The attempt with the answer.
        translator: Converts the events.
        stream: The stream to the client.
        done: Receives the last event.
    """
    try:
        with attempt:
            async for chunk in attempt.answer.chunks():
                events = translator.feed(chunk)
                if events and events[-1].get("type") == "transcript.text.done":
                    done.append(events.pop())
                await stream.send(b"".join(map(encode, events)))
            if translator.state is StreamState.OPEN:
                raise ConnectionBroke("its events end before the last one")
    except CallFailed as e:
        # If the last event has arrived, only the end of the HTTP response is missing.
        return str(e) if translator.state is StreamState.OPEN else None
    return None
