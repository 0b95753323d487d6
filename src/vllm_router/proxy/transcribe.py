"""From a whole upload to an answer: passed through, put into another format, streamed, or in
pieces.

What an engine has itself is passed on as it is; what it lacks is made from what it has. Audio that
is too long for one engine goes to all of them. Nothing here knows how an engine is chosen or
called.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

from vllm_router.engines.engine import Engine
from vllm_router.engines.work import OutcomeKind, Ticket, Urgency, windows_of
from vllm_router.errors import EngineFailed, RouterError, UnsupportedValue
from vllm_router.inbound.exchange import Exchange
from vllm_router.outbound.http1 import Answer, BadAnswer, CallFailed
from vllm_router.outbound.upload import Upload
from vllm_router.proxy.dispatch import Attempt, Dispatcher
from vllm_router.proxy.events import EventStream
from vllm_router.proxy.facts import RequestFacts, Task
from vllm_router.proxy.fanout import Fanout, Heard, LongAudio
from vllm_router.proxy.relay import Relay, UploadBody, engine_headers, pass_on
from vllm_router.proxy.rendering import EventRendering
from vllm_router.proxy.story import Story
from vllm_router.proxy.wish import StreamFormat, Wish, read_wish
from vllm_router.wire.formats import (
    FORMATS,
    ResponseFormat,
    to_json,
    to_srt,
    to_text,
    to_verbose_json,
    to_vtt,
)
from vllm_router.wire.json_text import JsonValue
from vllm_router.wire.multipart import Edit
from vllm_router.wire.speech import Span, snapped
from vllm_router.wire.sse import encode
from vllm_router.wire.stream_events import ChunkTranslator
from vllm_router.wire.subtitles import SubtitleStyle
from vllm_router.wire.transcript import (
    BadTranscript,
    Transcript,
    duration_usage,
    joined,
    read_transcript,
)

#: What vLLM takes at most: `VLLM_MAX_AUDIO_CLIP_FILESIZE_MB` is 25.
ENGINE_FILE_BYTES = 25 * 2**20
#: A length that was only estimated from bytes may be several times that: cut rather than fail.
ESTIMATE_FACTOR = 0.5

_TASK_WORDS: Mapping[Task, Literal["transcribe", "translate"]] = {
    Task.TRANSCRIBE: "transcribe",
    Task.TRANSLATE: "translate",
}


@dataclass(frozen=True, slots=True)
class TranscriptionRules:
    """How uploads are answered.

    Attributes:
        split: "auto", "always" or "off".
        split_longer_than_s: Longer audio is cut, with "auto".
        skip_silence: Whether pieces without sound are left out.
        partial_ok: Whether pieces that cannot be had may be missing.
        stream_format: Of events, when a request does not say.
        style: Of subtitles.
        session_header: Lower-case name of the header whose value keeps to one engine; None: none.
    """

    split: str
    split_longer_than_s: float
    skip_silence: bool
    partial_ok: bool
    stream_format: StreamFormat
    style: SubtitleStyle
    session_header: bytes | None = None


class Transcriber:
    """Answers uploads.

    Args:
        dispatcher: Brings work to engines.
        relay: Carries uploads.
        fanout: Has long audio heard by all engines.
        rules: How it is done.
        wall_clock: Unix seconds, for vLLM's events.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        relay: Relay,
        fanout: Fanout,
        rules: TranscriptionRules,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._dispatcher = dispatcher
        self._relay = relay
        self._fanout = fanout
        self._rules = rules
        self._wall_clock = wall_clock

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
            self._rules.stream_format,
            head.header(b"x-stream-format"),
            head.header(b"x-priority"),
        )
        if self._must_split(facts) and wish.format is not None:
            await _LongAnswer(self, exchange, facts, wish, story).run(upload)
            return
        edits = []
        if facts.asked_model is not None and facts.asked_model != facts.model:
            edits = facts.form.replaced("model", facts.model.encode())
        whole = _WholeAnswer(self, exchange, facts, wish, story, upload, edits)
        if wish.format is None:
            await whole.passed_through()
        elif wish.is_stream:
            await whole.streamed()
        elif FORMATS[wish.format].is_native and not wish.wants_words:
            await whole.passed_through()
        else:
            await whole.converted()

    def _must_split(self, facts: RequestFacts) -> bool:
        rules = self._rules
        if rules.split == "off":
            return False
        if rules.split == "always":
            return True
        bound_s = rules.split_longer_than_s
        if facts.is_estimated:
            bound_s *= ESTIMATE_FACTOR
        return facts.audio_s > bound_s or facts.file.end - facts.file.start > ENGINE_FILE_BYTES

    # --- what the ways of answering share

    @property
    def dispatcher(self) -> Dispatcher:
        """Brings work to engines."""
        return self._dispatcher

    @property
    def relay(self) -> Relay:
        """Carries uploads."""
        return self._relay

    @property
    def fanout(self) -> Fanout:
        """Has long audio heard."""
        return self._fanout

    @property
    def rules(self) -> TranscriptionRules:
        """How it is done."""
        return self._rules

    def urgency(self, facts: RequestFacts, wish: Wish) -> Urgency:
        """Return whether an upload is short work."""
        is_short = facts.audio_s <= self._rules.split_longer_than_s and not wish.is_batch
        return Urgency.SHORT if is_short else Urgency.LONG

    def session_key(self, exchange: Exchange) -> str | None:
        """Return what requests of one session have in common."""
        name = self._rules.session_header
        value = exchange.head.header(name) if name is not None else None
        return value.decode("latin-1") if value else None

    def rendering(self, facts: RequestFacts, wish: Wish, story: Story) -> EventRendering:
        """Return what writes an answer's events."""
        return EventRendering(
            wish,
            self._rules.style,
            request_id=story.request_id,
            model=facts.asked_model or facts.model,
            created=int(self._wall_clock()),
            task=_TASK_WORDS[facts.task],
        )

    def written(
        self, transcript: Transcript, facts: RequestFacts, wish: Wish, speech: Sequence[Span] | None
    ) -> bytes:
        """Return a transcript in the format asked for."""
        match wish.format:
            case ResponseFormat.TEXT:
                return to_text(transcript)
            case ResponseFormat.SRT:
                return to_srt(transcript, self._rules.style, speech)
            case ResponseFormat.VTT:
                return to_vtt(transcript, self._rules.style, speech)
            case ResponseFormat.VERBOSE_JSON:
                return to_verbose_json(transcript, _TASK_WORDS[facts.task])
            case _:
                return to_json(transcript)


def _require_words(wish: Wish, transcript: Transcript) -> None:
    if wish.wants_words and transcript.words is None:
        raise UnsupportedValue(
            "The engines give no times of single words; ask for "
            "'timestamp_granularities[]=segment'.",
            param="timestamp_granularities[]",
        )


class _WholeAnswer:
    """One upload that goes to one engine whole."""

    def __init__(
        self,
        transcriber: Transcriber,
        exchange: Exchange,
        facts: RequestFacts,
        wish: Wish,
        story: Story,
        upload: Upload,
        edits: list[Edit],
    ) -> None:
        self._transcriber = transcriber
        self._exchange = exchange
        self._facts = facts
        self._wish = wish
        self._story = story
        self._upload = upload
        self._edits = edits

    async def _attempt(self, edits: Sequence[Edit] = ()) -> Attempt:
        relay, facts, story = self._transcriber.relay, self._facts, self._story
        body = UploadBody.edited(self._upload, [*self._edits, *edits])
        headers = engine_headers(self._exchange, story.request_id, relay.engine_key)
        path = b"/v1/audio/" + facts.task.value.encode()

        trace = None if story.trace is None else story.trace.work()

        def send(engine: Engine) -> Awaitable[Answer]:
            story.given_to(engine.engine_id)
            sent = headers if trace is None else trace.attempt(engine.engine_id, headers)
            return relay.send(engine, path, sent, body, facts.audio_s)

        dispatcher = self._transcriber.dispatcher
        ticket = Ticket(
            request_id=story.request_id,
            model=facts.model,
            audio_s=facts.audio_s,
            windows=windows_of(facts.audio_s),
            urgency=self._transcriber.urgency(facts, self._wish),
            enqueued_at=dispatcher.now(),
            session_key=self._transcriber.session_key(self._exchange),
            trace=trace,
        )
        attempt = await dispatcher.attempt(ticket, send)
        story.queue_s = attempt.waited_s
        return attempt

    async def passed_through(self) -> None:
        """Pass the engine's answer on as it is."""
        attempt = await self._attempt()
        kind, detail = OutcomeKind.CLIENT_LEFT, None
        try:
            await pass_on(self._exchange, attempt)
            kind = attempt.kind
        except CallFailed as e:
            kind, detail = OutcomeKind.RESET, str(e)
            self._story.error = "engine_broke_off"
            if not self._exchange.is_complete:
                self._exchange.abort()
        finally:
            attempt.close(kind, detail)

    async def converted(self) -> None:
        """Answer in a format that the engine lacks."""
        attempt, transcript = await self._transcript()
        if transcript is None:
            return
        assert self._wish.format is not None
        facts = FORMATS[self._wish.format]
        transcript, speech = await self._fitted(transcript)
        body = self._transcriber.written(transcript, self._facts, self._wish, speech)
        headers = [
            (b"content-type", facts.content_type.encode()),
            (b"x-engine-id", attempt.engine_id.encode()),
        ]
        self._exchange.respond(200, headers, body)

    async def _transcript(
        self, stream: EventStream | None = None
    ) -> tuple[Attempt, Transcript | None]:
        """Return the engine's words; None: it refused, and the client has been told."""
        wish, form = self._wish, self._facts.form
        assert wish.format is not None
        asked = (
            ResponseFormat.VERBOSE_JSON if wish.needs_times else FORMATS[wish.format].engine_format
        )
        edits = form.replaced("response_format", asked.value.encode())
        for name in ("stream", "stream_include_usage", "stream_continuous_usage_stats"):
            edits += form.changed(name, b"false")
        attempt = await self._attempt(edits)
        kind, detail = OutcomeKind.CLIENT_LEFT, None
        try:
            answer = attempt.answer
            if answer.status != 200 and (stream is None or not stream.is_begun):
                await pass_on(self._exchange, attempt)
                kind = attempt.kind
                return attempt, None
            body = await answer.read()
            transcript = read_transcript(body, _known_length(self._facts))
            kind = OutcomeKind.OK
        except (BadTranscript, BadAnswer, CallFailed) as e:
            kind, detail = OutcomeKind.RESET, str(e)
            raise EngineFailed(f"{attempt.engine_id} answered what cannot be used: {e}.") from e
        finally:
            attempt.close(kind, detail)
        _require_words(wish, transcript)
        if transcript.usage is None and transcript.duration_s is not None:
            transcript = joined([transcript], transcript.duration_s)
        return attempt, transcript

    async def _fitted(self, transcript: Transcript) -> tuple[Transcript, list[Span] | None]:
        """Move the times of subtitles to where somebody speaks, if that can be found out."""
        is_subtitles = self._wish.format in (ResponseFormat.SRT, ResponseFormat.VTT)
        if not is_subtitles or not transcript.segments or self._transcriber.rules.split == "off":
            return transcript, None
        file = self._upload.file()
        try:
            speech = await self._transcriber.fanout.speech(self._facts, file)
        finally:
            os.close(file)
        return (snapped(transcript, speech), speech) if speech else (transcript, None)

    async def streamed(self) -> None:
        """Answer as events."""
        wish = self._wish
        assert wish.format is not None
        if wish.needs_times or not FORMATS[wish.format].engine_streams:
            await self._streamed_at_once()
        elif wish.stream_format is StreamFormat.VLLM:
            await self.passed_through()
        else:
            await self._streamed_through()

    async def _streamed_at_once(self) -> None:
        """Give what the engine cannot stream as events, once it is there."""
        stream = EventStream(self._exchange)
        try:
            attempt, transcript = await self._transcript(stream)
            if transcript is None:
                return
            stream.add_header(b"x-engine-id", attempt.engine_id.encode())
            rendering = self._transcriber.rendering(self._facts, self._wish, self._story)
            transcript, speech = await self._fitted(transcript)
            await stream.send(rendering.add(transcript, speech))
            await stream.send(rendering.end(transcript.usage))
            stream.end()
        except RouterError as e:
            if not stream.is_begun:
                raise
            self._story.error = e.code
            stream.fail(e)
        finally:
            stream.close()

    async def _streamed_through(self) -> None:
        """Turn the engine's events into OpenAI's as they come."""
        stream = EventStream(self._exchange)
        attempt: Attempt | None = None
        kind, detail = OutcomeKind.CLIENT_LEFT, None
        try:
            attempt = await self._attempt()
            answer = attempt.answer
            is_events = answer.header(b"content-type").startswith(b"text/event-stream")
            if not is_events and not stream.is_begun:
                await pass_on(self._exchange, attempt)
                kind = attempt.kind
                return
            stream.add_header(b"x-engine-id", attempt.engine_id.encode())
            translator = ChunkTranslator(_known_length(self._facts))
            async with aclosing(answer.chunks()) as chunks:
                async for chunk in chunks:
                    await stream.send(b"".join(map(encode, translator.feed(chunk))))
            kind = OutcomeKind.OK
            await stream.send(b"".join(map(encode, translator.finish())))
            stream.end()
        except CallFailed as e:
            kind, detail = OutcomeKind.RESET, str(e)
            self._story.error = "engine_broke_off"
            stream.fail(EngineFailed(f"The engine broke off in its answer: {e}."))
        except RouterError as e:
            if not stream.is_begun:
                raise
            self._story.error = e.code
            stream.fail(e)
        finally:
            stream.close()
            if attempt is not None:
                attempt.close(kind, detail)


def _known_length(facts: RequestFacts) -> float | None:
    return None if facts.is_estimated else round(facts.audio_s, 3)


class _LongAnswer:
    """One upload that goes to all engines in pieces."""

    def __init__(
        self,
        transcriber: Transcriber,
        exchange: Exchange,
        facts: RequestFacts,
        wish: Wish,
        story: Story,
    ) -> None:
        self._transcriber = transcriber
        self._exchange = exchange
        self._facts = facts
        self._wish = wish
        self._story = story
        self._parts: list[Transcript] = []
        self._speech: list[Span] = []
        self._missing: list[Heard] = []

    async def run(self, upload: Upload) -> None:
        """Answer it."""
        transcriber, facts, story = self._transcriber, self._facts, self._story
        now = transcriber.dispatcher.now()
        urgency = transcriber.urgency(facts, self._wish)
        whole = Ticket(
            request_id=story.request_id,
            model=facts.model,
            audio_s=facts.audio_s,
            windows=windows_of(facts.audio_s),
            urgency=urgency,
            enqueued_at=now,
        )
        transcriber.dispatcher.admit(whole)
        headers = engine_headers(self._exchange, story.request_id, transcriber.relay.engine_key)
        file = upload.file()
        try:
            audio = LongAudio(
                facts=facts,
                story=story,
                headers=[header for header in headers if header[0] != b"content-type"],
                language=self._wish.language,
                file=file,
                enqueued_at=now,
                urgency=urgency,
                skip_silence=transcriber.rules.skip_silence,
                partial_ok=transcriber.rules.partial_ok,
                is_stream=self._wish.is_stream,
            )
            if self._wish.is_stream:
                await self._streamed(audio)
            else:
                await self._whole(audio)
        finally:
            os.close(file)

    async def _whole(self, audio: LongAudio) -> None:
        length_s = await self._transcriber.fanout.hear(audio, self._keep)
        self._story.audio_s = length_s
        transcript = joined(self._parts, length_s)
        if self._missing:
            gaps: list[JsonValue] = [{"start": h.start_s, "end": h.end_s} for h in self._missing]
            transcript = replace(transcript, extra={**transcript.extra, "missing": gaps})
        assert self._wish.format is not None
        body = self._transcriber.written(transcript, self._facts, self._wish, self._speech)
        content_type = FORMATS[self._wish.format].content_type.encode()
        self._exchange.respond(200, [(b"content-type", content_type), *self._headers()], body)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-engine-id", ",".join(self._story.engines[:16]).encode())]
        if self._missing:
            gaps = ",".join(f"{h.start_s:.3f}-{h.end_s:.3f}" for h in self._missing[:100])
            headers.append((b"x-missing-seconds", gaps.encode()))
        return headers

    async def _keep(self, heard: Heard) -> None:
        part = self._took(heard)
        if part is not None:
            self._parts.append(part)
            self._speech += heard.speech

    def _took(self, heard: Heard) -> Transcript | None:
        if heard.missing is not None:
            self._missing.append(heard)
        if heard.transcript is None:
            return None
        _require_words(self._wish, heard.transcript)
        if self._wish.needs_times:
            return snapped(heard.transcript, heard.speech)
        return heard.transcript

    async def _streamed(self, audio: LongAudio) -> None:
        stream = EventStream(self._exchange)
        rendering = self._transcriber.rendering(self._facts, self._wish, self._story)

        async def pass_piece_on(heard: Heard) -> None:
            part = self._took(heard)
            if part is not None:
                await stream.send(rendering.add(part, heard.speech))

        try:
            length_s = await self._transcriber.fanout.hear(audio, pass_piece_on)
            self._story.audio_s = length_s
            missing = [(h.start_s, h.end_s) for h in self._missing]
            await stream.send(rendering.end(duration_usage(length_s), missing))
            stream.end()
        except RouterError as e:
            if not stream.is_begun:
                raise
            self._story.error = e.code
            stream.fail(e)
        finally:
            stream.close()
