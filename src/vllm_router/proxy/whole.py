"""An upload that goes to one engine whole: passed through, put into another format, or streamed.

What an engine has itself is passed on as it is; what it lacks is made from what it has.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from vllm_router.engines.engine import Engine
from vllm_router.engines.work import OutcomeKind, Ticket, windows_of
from vllm_router.errors import (
    EngineFailed,
    EnginesDied,
    RouterError,
    UnreadableAudio,
    UnsupportedValue,
)
from vllm_router.inbound.exchange import Exchange
from vllm_router.outbound.answer import Answer
from vllm_router.outbound.call import (
    CallFailed,
    ConnectionBroke,
)
from vllm_router.outbound.upload import Upload
from vllm_router.proxy.dispatch import Attempt
from vllm_router.proxy.events import EventStream
from vllm_router.proxy.facts import RequestFacts
from vllm_router.proxy.headers import engine_headers
from vllm_router.proxy.long import answer_headers
from vllm_router.proxy.means import Means, known_length, require_words
from vllm_router.proxy.pieces import SpeechMap
from vllm_router.proxy.relay import MAX_REFUSAL_BYTES, UploadBody, pass_on, understood
from vllm_router.proxy.speech_check import SpeechCheck
from vllm_router.proxy.story import Story
from vllm_router.proxy.wish import StreamFormat, Wish
from vllm_router.wire.formats import FORMATS, ResponseFormat
from vllm_router.wire.json_text import JsonObject
from vllm_router.wire.leading_space import StreamStart, without_leading_space
from vllm_router.wire.media_type import is_type
from vllm_router.wire.multipart import Edit
from vllm_router.wire.sse import encode
from vllm_router.wire.stream_events import ChunkTranslator, StreamState, delta_event
from vllm_router.wire.told_seconds import corrected_seconds, told_seconds
from vllm_router.wire.transcript import BadTranscript, Transcript, joined, read_transcript
from vllm_router.wire.usage_seconds import with_whole_seconds

log = logging.getLogger(__name__)

#: Statuses by which engines answer files whose container they cannot read.
_PERHAPS_UNREADABLE: Final = frozenset({400, 415, 422, 500})
#: Those by which they answer fields that they do not understand.
_REFUSED: Final = frozenset({400, 404, 422, 501})
#: Headers that are wrong for any other bytes than the engine's.
_OF_THE_BYTES: Final = frozenset({b"etag", b"digest", b"content-digest", b"content-md5"})


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
        self._check = SpeechCheck(means, exchange, facts, wish, story, upload)

    async def _attempt(
        self,
        edits: Sequence[Edit] = (),
        read: Callable[[bytes], object] | None = None,
        after: Attempt | None = None,
    ) -> Attempt:
        """Get an engine's answer; `after` another attempt, whose turn in the queue it keeps."""
        relay, facts, story = self._means.relay, self._facts, self._story
        body = UploadBody.edited(self._upload, [*self._edits, *edits])
        headers = engine_headers(self._exchange, relay.engine_key)
        path = b"/v1/audio/" + facts.task.encode()

        ticket = self._ticket() if after is None else after.ticket
        trace = ticket.trace

        def send(engine: Engine) -> Awaitable[Answer]:
            story.given_to(engine.engine_id)
            sent = headers if trace is None else trace.attempt(engine.engine_id, headers)
            call = relay.send(engine, path, story.request_id, sent, body, facts.audio_s)
            return call if read is None else understood(call, read)

        attempt = await self._means.dispatcher.attempt(ticket, send)
        story.queue_s += attempt.waited_s
        story.windows += ticket.windows
        if attempt.answer.status == 200:
            self._means.containers.read(facts.model, facts.kind)
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
        """Pass the engine's answer on as it is.

        Raises:
            UnsupportedValue: It was to tell speakers apart and cannot.
        """
        attempt = await self._attempt()
        if self._wish.is_diarized and attempt.answer.status in _REFUSED:
            await _require_speakers(attempt)
        await self._pass_on(attempt)

    async def verified(self) -> None:
        """Pass the engine's JSON on as it is, unless its words are implausible for the audio."""
        attempt = await self._attempt()
        answer = attempt.answer
        if answer.status != 200:
            await self._refused(attempt)
            return
        body = answer.body
        transcript = None if body is None else _transcript_in(body, self._facts)
        if transcript is None or not self._check.may_lack_words(transcript.text):
            await self._pass_on(attempt)
            return
        # The engine is done. What is asked again may have to wait for the very room it held.
        attempt.close(OutcomeKind.OK)
        checked = await self._check.checked(transcript, await self._check.speech())
        if checked is transcript:
            await self._pass_on(attempt)
        else:
            await self._respond(checked, None)

    async def _refused(self, attempt: Attempt, stream: EventStream | None = None) -> None:
        """Answer an upload that an engine has refused: by decoding it here if that helps.

        Engines differ in the containers that they read, and answer what they cannot read with 400
        or 500.
        """
        answer, kind = attempt.answer, self._facts.kind
        status = answer.status
        # WAV is what it would be sent as: who refuses that has other reasons.
        is_readable = kind == "wav" or status not in _PERHAPS_UNREADABLE
        if self._means.rules.split == "off" or is_readable:
            await self._show_refusal(attempt, stream)
            return
        try:
            await answer.read(MAX_REFUSAL_BYTES)
        except CallFailed:
            # The status is known, and that it refuses; its words are not.
            answer.body = b""
        # The engine is done. The pieces may have to wait for the very room it held.
        attempt.close(attempt.kind)
        try:
            transcript = await self._check.in_pieces()
            if not self._story.pieces:
                # Nobody speaks. Whether the engine would take it as WAV is still to be asked.
                transcript = await self._check.in_pieces(skip_silence=False)
        except UnreadableAudio as e:
            if status >= 500:
                raise
            log.info("request %s: the router cannot read it either: %s", self._story.request_id, e)
            await self._show_refusal(attempt, stream)
            return
        except RouterError:
            await self._show_refusal(attempt, stream)
            return
        self._means.containers.refused(self._facts.model, kind, self._means.dispatcher.now())
        if stream is None:
            await self._respond(transcript, None)
        else:
            await self._send(stream, transcript, None)

    async def _show_refusal(self, attempt: Attempt, stream: EventStream | None) -> None:
        if stream is not None:
            if stream.is_begun:
                raise await _refusal(attempt)
            stream.give_way()
        await self._pass_on(attempt)

    async def _pass_on(self, attempt: Attempt) -> None:
        answer = attempt.answer
        start: StreamStart | None = None
        # A format that only the engine knows may mean something by its white space.
        if self._wish.format is not None and answer.status == 200:
            if answer.body is None:
                start = StreamStart()
            else:
                _trim(answer, answer.body)
        try:
            with attempt:
                await pass_on(self._exchange, attempt, start)
        except CallFailed:
            self._story.error = "engine_broke_off"
            if not self._exchange.is_complete:
                self._exchange.abort()

    async def converted(self) -> None:
        """Answer in a format that is made from the engine's words."""
        answered = await self._answered()
        if answered is not None:
            await self._respond(*answered)

    async def _respond(self, transcript: Transcript, speech: SpeechMap | None) -> None:
        assert self._wish.format is not None
        transcript = await self._check.timed(transcript, speech)
        spans = None if speech is None else speech.spans
        body = self._means.written(transcript, self._facts, self._wish, spans)
        headers = [
            (b"content-type", FORMATS[self._wish.format].content_type.encode()),
            *answer_headers(self._story),
        ]
        self._exchange.respond(200, headers, body)

    async def _answered(
        self, stream: EventStream | None = None
    ) -> tuple[Transcript, SpeechMap | None] | None:
        """Return the verified words and where they were said; None: the client has its answer."""
        wish = self._wish
        if wish.wants_words:
            attempt, transcript = await self._transcript(ResponseFormat.VERBOSE_JSON)
            if transcript is None:
                await self._show_refusal(attempt, stream)
                return None
            require_words(wish, transcript)
            return transcript, None
        if not wish.needs_times:
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
            # What is good enough for plain JSON is for this too: formats must not differ in words.
            return transcript, found
        return await self._check.checked(transcript, found), found

    async def _transcript(self, asked: ResponseFormat) -> tuple[Attempt, Transcript | None]:
        """Return the engine's words; None: it refused, and the attempt is still open."""
        form = self._facts.form
        edits = form.replaced("response_format", asked.value.encode())
        for name in ("stream", "stream_include_usage", "stream_continuous_usage_stats"):
            edits += form.changed(name, b"false")
        heard: list[Transcript] = []

        def read(answer: bytes) -> None:
            heard.append(read_transcript(answer, known_length(self._facts)))

        attempt = await self._attempt(edits, read)
        if attempt.answer.status != 200:
            return attempt, None
        attempt.close(OutcomeKind.OK)
        transcript = heard[-1]
        if transcript.usage is None and transcript.duration_s is not None:
            transcript = joined([transcript], transcript.duration_s)
        return attempt, transcript

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
            answered = await self._answered(stream)
            if answered is not None:
                await self._send(stream, *answered)

    async def _send(
        self, stream: EventStream, transcript: Transcript, speech: SpeechMap | None
    ) -> None:
        for name, value in answer_headers(self._story):
            stream.set_header(name, value)
        rendering = self._means.rendering(self._facts, self._wish, self._story)
        transcript = await self._check.timed(transcript, speech)
        await stream.send(rendering.add(transcript, None if speech is None else speech.spans))
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
                    else:
                        await self._refused(attempt, stream)
                    return
                stream.set_header(b"x-engine-id", attempt.engine_id.encode())
                translator = ChunkTranslator(known_length(self._facts), told=told)
                done: list[JsonObject] = []
                detail = await _translated(attempt, translator, stream, done)
                if detail is None:
                    if translator.state is StreamState.FAILED:
                        self._story.error = EngineFailed.code
                    await stream.send(b"".join([await self._checked_end(event) for event in done]))
                    stream.end()
                    return
                told = translator.told
                broken = f"The engine broke off in its answer: {detail}."
                before = attempt
                failures += 1
                if not self._means.dispatcher.may_go_on(attempt, failures):
                    raise EngineFailed(broken)

    async def _checked_end(self, done: JsonObject) -> bytes:
        """Return a stream's last events: with the words that the engine left out, if it did.

        What the client has been told cannot be taken back. Where the words of another transcription
        go on from there they follow as a delta; in any case the last event holds them all.
        """
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

        Some engines ignore `stream`. Their answer passes as it is while nothing has been sent; a
        slow one comes when the client has been kept waiting by comments, or has been told a part.

        Raises:
            RouterError: It is a refusal, or holds no words.
        """
        if attempt.answer.status != 200:
            await self._refused(attempt, stream)
            return
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
        events = translator.feed_whole(text, usage)
        if translator.state is StreamState.FAILED:
            self._story.error = EngineFailed.code
        for event in events:
            is_last = event.get("type") == "transcript.text.done"
            await stream.send(await self._checked_end(event) if is_last else encode(event))
        stream.end()


async def _require_speakers(attempt: Attempt) -> None:
    """Say what to do where an engine does not know the format that tells speakers apart.

    Raises:
        UnsupportedValue: It does not.
    """
    try:
        said = await attempt.answer.read(MAX_REFUSAL_BYTES)
    except CallFailed:
        attempt.answer.body = said = b""
    if b"response_format" in said or b"diarized" in said:
        attempt.close(attempt.kind)
        raise UnsupportedValue(
            "The engines do not tell speakers apart ('response_format=diarized_json'). If each "
            "speaker has a channel, send 'channels=each' with it; else ask for 'verbose_json'.",
            param="response_format",
        )


def _trim(answer: Answer, body: bytes) -> None:
    """Write an engine's answer as OpenAI does: no space before the text, whole seconds."""
    edited = with_whole_seconds(without_leading_space(body))
    if len(edited) != len(body):
        answer.body = edited
        answer.headers = [header for header in answer.headers if header[0] not in _OF_THE_BYTES]


def _transcript_in(body: bytes, facts: RequestFacts) -> Transcript | None:
    """Return what an engine's JSON says; None: it is no transcript."""
    try:
        return read_transcript(body, known_length(facts))
    except BadTranscript:
        return None


async def _refusal(attempt: Attempt) -> RouterError:
    """Return what an engine answered, for a client whose stream has begun already."""
    said = await attempt.refusal()
    if attempt.answer.status < 400:
        return EngineFailed(f"{attempt.engine_id} answered without events.")
    return said


async def _translated(
    attempt: Attempt, translator: ChunkTranslator, stream: EventStream, done: list[JsonObject]
) -> str | None:
    """Pass an engine's events on but for the last; return how they broke off, None if whole.

    Args:
        attempt: Whose answer it is.
        translator: Makes the events.
        stream: To the client.
        done: Gets the last event.
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
        # It may have said all: then what broke is only the end of its answer.
        return str(e) if translator.state is StreamState.OPEN else None
    return None
