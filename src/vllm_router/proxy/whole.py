"""An upload that goes to one engine whole: passed through, put into another format, or streamed.

What an engine has itself is passed on as it is; what it lacks is made from what it has.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence

from vllm_router.engines.engine import Engine
from vllm_router.engines.work import OutcomeKind, Ticket, windows_of
from vllm_router.errors import EngineFailed, EnginesDied, RouterError
from vllm_router.inbound.exchange import Exchange
from vllm_router.outbound.answer import Answer
from vllm_router.outbound.call import (
    CallFailed,
    ConnectionBroke,
)
from vllm_router.outbound.upload import Upload
from vllm_router.proxy.dispatch import Attempt
from vllm_router.proxy.empty import is_empty
from vllm_router.proxy.events import EventStream
from vllm_router.proxy.facts import RequestFacts
from vllm_router.proxy.headers import engine_headers
from vllm_router.proxy.means import Means, known_length, require_words
from vllm_router.proxy.relay import UploadBody, pass_on, understood
from vllm_router.proxy.story import Story
from vllm_router.proxy.wish import StreamFormat, Wish
from vllm_router.wire.formats import (
    FORMATS,
    ResponseFormat,
)
from vllm_router.wire.media_type import is_type
from vllm_router.wire.multipart import Edit
from vllm_router.wire.speech import Span, snapped
from vllm_router.wire.sse import encode
from vllm_router.wire.stream_events import ChunkTranslator, StreamState
from vllm_router.wire.told_seconds import corrected_seconds, told_seconds
from vllm_router.wire.transcript import (
    BadTranscript,
    Transcript,
    joined,
    read_transcript,
)


class WholeAnswer:
    """One upload that goes to one engine whole."""

    def __init__(
        self,
        means: Means,
        exchange: Exchange,
        facts: RequestFacts,
        wish: Wish,
        story: Story,
        upload: Upload,
        edits: list[Edit],
    ) -> None:
        self._means = means
        self._exchange = exchange
        self._facts = facts
        self._wish = wish
        self._story = story
        self._upload = upload
        self._edits = edits

    async def _attempt(
        self,
        edits: Sequence[Edit] = (),
        read: Callable[[bytes], object] | None = None,
        after: Attempt | None = None,
    ) -> Attempt:
        """Get an engine's answer; `after` another attempt, whose turn in the queue it keeps."""
        relay, facts, story = self._means.relay, self._facts, self._story
        body = UploadBody.edited(self._upload, [*self._edits, *edits])
        headers = engine_headers(self._exchange, story.request_id, relay.engine_key)
        path = b"/v1/audio/" + facts.task.encode()

        ticket = self._ticket() if after is None else after.ticket
        trace = ticket.trace

        def send(engine: Engine) -> Awaitable[Answer]:
            story.given_to(engine.engine_id)
            sent = headers if trace is None else trace.attempt(engine.engine_id, headers)
            call = relay.send(engine, path, sent, body, facts.audio_s)
            return call if read is None else understood(call, read)

        attempt = await self._means.dispatcher.attempt(ticket, send)
        story.queue_s += attempt.waited_s
        said = attempt.answer.body
        is_asked = story.charged_s is not None or facts.is_estimated
        if is_asked and said is not None and attempt.answer.status == 200:
            told_s = told_seconds(said)
            if told_s is not None:
                story.audio_s = corrected_seconds(facts.audio_s, told_s)
                story.is_measured = True
        return attempt

    def _ticket(self) -> Ticket:
        means, facts, story = self._means, self._facts, self._story
        return Ticket(
            request_id=story.request_id,
            model=facts.model,
            audio_s=facts.audio_s,
            windows=windows_of(facts.audio_s),
            urgency=means.urgency(facts, self._wish),
            enqueued_at=means.dispatcher.now(),
            session_key=means.session_key(self._exchange),
            trace=None if story.trace is None else story.trace.work(),
        )

    async def passed_through(self) -> None:
        """Pass the engine's answer on as it is."""
        attempt = await self._attempt()
        if is_empty(attempt.answer):
            self._look_for_sound()
        await self._pass_on(attempt)

    def _look_for_sound(self) -> None:
        if self._means.rules.split != "off":
            self._means.empty.look(self._upload, self._facts, self._story)

    async def _pass_on(self, attempt: Attempt) -> None:
        try:
            with attempt:
                await pass_on(self._exchange, attempt)
        except CallFailed:
            self._story.error = "engine_broke_off"
            if not self._exchange.is_complete:
                self._exchange.abort()

    async def converted(self) -> None:
        """Answer in a format that the engine lacks."""
        attempt, transcript = await self._transcript()
        if transcript is None:
            return
        assert self._wish.format is not None
        facts = FORMATS[self._wish.format]
        transcript, speech = await self._fitted(transcript)
        body = self._means.written(transcript, self._facts, self._wish, speech)
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
        heard: list[Transcript] = []

        def read(answer: bytes) -> None:
            heard.append(read_transcript(answer, known_length(self._facts)))

        attempt = await self._attempt(edits, read)
        if attempt.answer.status != 200:
            if stream is not None:
                if stream.is_begun:
                    raise await _refusal(attempt)
                stream.give_way()
            await self._pass_on(attempt)
            return attempt, None
        attempt.close(OutcomeKind.OK)
        transcript = heard[-1]
        if not transcript.text.strip():
            self._look_for_sound()
        require_words(wish, transcript)
        if transcript.usage is None and transcript.duration_s is not None:
            transcript = joined([transcript], transcript.duration_s)
        return attempt, transcript

    async def _fitted(self, transcript: Transcript) -> tuple[Transcript, list[Span] | None]:
        """Move the times of subtitles to where somebody speaks, if that can be found out."""
        is_subtitles = self._wish.format in (ResponseFormat.SRT, ResponseFormat.VTT)
        if not is_subtitles or not transcript.segments or self._means.rules.split == "off":
            return transcript, None
        file = self._upload.file()
        try:
            speech = await self._means.fanout.speech(self._facts, file)
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
        with EventStream(self._exchange, self._story) as stream:
            attempt, transcript = await self._transcript(stream)
            if transcript is None:
                return
            stream.set_header(b"x-engine-id", attempt.engine_id.encode())
            rendering = self._means.rendering(self._facts, self._wish, self._story)
            transcript, speech = await self._fitted(transcript)
            await stream.send(rendering.add(transcript, speech))
            await stream.send(rendering.end(transcript.usage))
            stream.end()

    async def _streamed_through(self) -> None:
        """Turn the engine's events into OpenAI's as they come.

        Where it breaks off, another engine goes on: it hears all of it, and what the client has
        been told already is not told again.
        """
        with EventStream(self._exchange, self._story) as stream:
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
                        return
                    stream.give_way()
                    await self._pass_on(attempt)
                    return
                stream.set_header(b"x-engine-id", attempt.engine_id.encode())
                translator = ChunkTranslator(known_length(self._facts), told=told)
                detail = await _translated(attempt, translator, stream)
                if detail is None:
                    if translator.state is StreamState.FAILED:
                        self._story.error = EngineFailed.code
                    elif not translator.told.strip():
                        self._look_for_sound()
                    stream.end()
                    return
                told = translator.told
                broken = f"The engine broke off in its answer: {detail}."
                before = attempt
                failures += 1
                if not self._means.dispatcher.may_go_on(attempt, failures):
                    raise EngineFailed(broken)

    async def _told_at_once(self, attempt: Attempt, stream: EventStream, told: str) -> None:
        """End a stream that has begun with the answer of an engine that does not stream.

        Some engines ignore `stream`. Their answer passes as it is while nothing has been sent; a
        slow one comes when the client has been kept waiting by comments, or has been told a part.

        Raises:
            RouterError: It is a refusal, or holds no words.
        """
        if attempt.answer.status != 200:
            raise await _refusal(attempt)
        try:
            with attempt:
                answer = await attempt.answer.read()
        except CallFailed as e:
            raise EngineFailed(f"The engine broke off in its answer: {e}.") from e
        length_s = known_length(self._facts)
        if is_type(attempt.answer.header(b"content-type"), b"text/plain"):
            text, usage = answer.decode("utf-8", "replace").strip(), None
        else:
            try:
                transcript = read_transcript(answer, length_s)
            except BadTranscript as e:
                raise EngineFailed(f"{attempt.engine_id} answered without events: {e}.") from e
            text, usage = transcript.text, transcript.usage
        translator = ChunkTranslator(length_s, told=told)
        await stream.send(b"".join(map(encode, translator.feed_whole(text, usage))))
        if translator.state is StreamState.FAILED:
            self._story.error = EngineFailed.code
        elif not text:
            self._look_for_sound()
        stream.end()


async def _refusal(attempt: Attempt) -> RouterError:
    """Return what an engine answered, for a client whose stream has begun already."""
    said = await attempt.refusal()
    if attempt.answer.status < 400:
        return EngineFailed(f"{attempt.engine_id} answered without events.")
    return said


async def _translated(
    attempt: Attempt, translator: ChunkTranslator, stream: EventStream
) -> str | None:
    """Pass an engine's events on to their end; return how they broke off, None if they did not."""
    try:
        with attempt:
            async for chunk in attempt.answer.chunks():
                await stream.send(b"".join(map(encode, translator.feed(chunk))))
            if translator.state is StreamState.OPEN:
                raise ConnectionBroke("its events end before the last one")
    except CallFailed as e:
        # It may have said all: then what broke is only the end of its answer.
        return str(e) if translator.state is StreamState.OPEN else None
    return None
