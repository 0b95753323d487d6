"""An upload that goes to all engines in pieces, and its answer: put together, or as it comes."""

from __future__ import annotations

import os
from dataclasses import replace

from vllm_router.engines.work import Ticket, windows_of
from vllm_router.inbound.exchange import Exchange
from vllm_router.outbound.upload import Upload
from vllm_router.proxy.events import EventStream
from vllm_router.proxy.facts import RequestFacts
from vllm_router.proxy.headers import engine_headers
from vllm_router.proxy.means import Means, require_words
from vllm_router.proxy.pieces import Heard, LongAudio
from vllm_router.proxy.story import Story
from vllm_router.proxy.turns import TurnEvents, Turns
from vllm_router.proxy.wish import Wish, most_channels
from vllm_router.wire.formats import (
    FORMATS,
)
from vllm_router.wire.json_text import JsonValue
from vllm_router.wire.speech import Span
from vllm_router.wire.transcript import (
    Transcript,
    duration_usage,
    joined,
)


def long_audio(
    means: Means,
    exchange: Exchange,
    facts: RequestFacts,
    wish: Wish,
    story: Story,
    file: int,
) -> LongAudio:
    """Return an upload as an audio to be transcribed in pieces.

    Args:
        means: What answers are made with.
        exchange: The client's request.
        facts: What is known of it.
        wish: What is asked for.
        story: Its record.
        file: Descriptor of the file that holds the upload; the caller's.
    """
    headers = engine_headers(exchange, means.relay.engine_key)
    return LongAudio(
        facts=facts,
        story=story,
        headers=[header for header in headers if header[0] != b"content-type"],
        language=wish.language,
        file=file,
        enqueued_at=means.dispatcher.now(),
        urgency=means.urgency(facts, wish),
        skip_silence=means.rules.skip_silence,
        partial_ok=means.rules.partial_ok,
        verifies=means.rules.verifies,
        wants_words=wish.wants_words,
        is_stream=wish.is_stream,
        channels=wish.channels,
    )


def answer_headers(story: Story) -> list[tuple[bytes, bytes]]:
    """Return the headers that tell how an answer came about."""
    headers = [(b"x-engine-id", ",".join(story.engines[:16]).encode())]
    if story.is_verified and story.speech_s:
        headers.append((b"x-speech-coverage", b"%.3f" % (story.covered_s / story.speech_s)))
    return headers + warning_headers(story)


def warning_headers(story: Story) -> list[tuple[bytes, bytes]]:
    """Return the header that tells how the file is damaged, if it is."""
    if not story.damage:
        return []
    return [(b"x-audio-warning", " ".join(story.damage).encode("ascii", "replace"))]


class LongAnswer:
    """One upload that goes to all engines in pieces."""

    def __init__(
        self,
        means: Means,
        exchange: Exchange,
        facts: RequestFacts,
        wish: Wish,
        story: Story,
    ) -> None:
        self._means = means
        self._exchange = exchange
        self._facts = facts
        self._wish = wish
        self._story = story
        self._parts: list[Transcript] = []
        self._speech: list[Span] = []
        self._turns = Turns()
        self._missing: list[Heard] = []
        self._has_words = False

    async def run(self, upload: Upload) -> None:
        """Answer it."""
        means, facts, story = self._means, self._facts, self._story
        now = means.dispatcher.now()
        urgency = means.urgency(facts, self._wish)
        channels = most_channels(facts, self._wish, upload)
        whole = Ticket(
            request_id=story.request_id,
            model=facts.model,
            audio_s=facts.hint.seconds * channels,
            windows=windows_of(facts.hint.seconds) * channels,
            urgency=urgency,
            enqueued_at=now,
        )
        await means.dispatcher.admit(whole)
        file = upload.file()
        try:
            audio = long_audio(means, self._exchange, facts, self._wish, story, file)
            if self._wish.is_stream:
                await self._streamed(audio)
            else:
                await self._whole(audio)
        finally:
            os.close(file)
        if story.speech_s and not self._has_words and not self._missing:
            means.counts.note_empty(facts.model, story)

    async def _whole(self, audio: LongAudio) -> None:
        length_s = await self._means.fanout.hear(audio, self._keep)
        self._story.audio_s = length_s
        shown_s = round(length_s, 3)
        has_turns = len(self._turns) > 0
        transcript = self._turns.joined(shown_s) if has_turns else joined(self._parts, shown_s)
        transcript = replace(transcript, language=audio.language or audio.votes.language)
        if self._missing:
            gaps: list[JsonValue] = [
                {"start": h.start_s, "end": h.end_s}
                | ({} if h.channel is None else {"channel": h.channel})
                for h in self._missing
            ]
            transcript = replace(transcript, extra={**transcript.extra, "missing": gaps})
        assert self._wish.format is not None
        speech = self._turns.speech if has_turns else self._speech
        body = self._means.written(transcript, self._facts, self._wish, speech)
        content_type = FORMATS[self._wish.format].content_type.encode()
        self._exchange.respond(200, [(b"content-type", content_type), *self._headers()], body)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        headers = answer_headers(self._story)
        if self._missing:
            gaps = ",".join(f"{h.start_s:.3f}-{h.end_s:.3f}" for h in self._missing[:100])
            headers.append((b"x-missing-seconds", gaps.encode()))
        return headers

    async def _keep(self, heard: Heard) -> None:
        part = self._took(heard)
        if part is not None and heard.channel is not None:
            self._turns.add(part, heard.channel, heard.speech)
        elif part is not None:
            self._parts.append(part)
            self._speech += heard.speech

    def _took(self, heard: Heard) -> Transcript | None:
        if heard.missing is not None:
            self._missing.append(heard)
        if heard.transcript is None:
            return None
        self._has_words = self._has_words or bool(heard.transcript.text.strip())
        require_words(self._wish, heard.transcript)
        return heard.transcript

    async def _streamed(self, audio: LongAudio) -> None:
        rendering = self._means.rendering(self._facts, self._wish, self._story)
        turns = TurnEvents(rendering)

        with EventStream(self._exchange, self._story) as stream:
            for name, value in warning_headers(self._story):
                stream.set_header(name, value)

            async def pass_piece_on(heard: Heard) -> None:
                part = self._took(heard)
                if heard.channel is not None:
                    await stream.send(turns.add(part, heard))
                elif part is not None:
                    await stream.send(rendering.add(part, heard.speech))

            length_s = await self._means.fanout.hear(audio, pass_piece_on)
            self._story.audio_s = length_s
            missing = [(h.start_s, h.end_s) for h in self._missing]
            await stream.send(turns.rest())
            await stream.send(rendering.end(duration_usage(length_s), missing))
            stream.end()
