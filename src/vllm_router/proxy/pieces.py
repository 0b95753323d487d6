"""A long audio and the pieces that it is heard in: values, and what one piece may wait for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from vllm_router.engines.work import Urgency
from vllm_router.outbound.call import Headers
from vllm_router.outbound.upload import Upload
from vllm_router.proxy.facts import RequestFacts
from vllm_router.proxy.story import Story
from vllm_router.wire.levels import RATE_HZ
from vllm_router.wire.piece import Stretch, halved
from vllm_router.wire.speech import Span
from vllm_router.wire.transcript import Transcript


@dataclass(frozen=True, slots=True)
class Heard:
    """What became of one piece.

    Attributes:
        start_s: Where it begins in the whole audio.
        end_s: Where it ends.
        transcript: Its words, on the whole audio's clock; None: nobody speaks, or it is missing.
        speech: Where somebody speaks, on the whole audio's clock.
        missing: Why it could not be had; None if it could.
    """

    start_s: float
    end_s: float
    transcript: Transcript | None
    speech: tuple[Span, ...] = ()
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class SpooledPiece:
    """A piece of the audio, waiting to be heard.

    Attributes:
        index: 0 for the first that is sent.
        start_s: Where it begins in the whole audio.
        end_s: Where it ends.
        speech: Where somebody speaks in it, on the whole audio's clock.
        upload: Holds its samples, 16 kHz, mono, 16 bits.
        size_bytes: The size of its samples.
        stretches: Where they come from, as of a `Piece`.
        first_byte: Where they begin in the upload; not 0 for a part of a piece.
    """

    index: int
    start_s: float
    end_s: float
    speech: tuple[Span, ...]
    upload: Upload
    size_bytes: int
    stretches: tuple[Stretch, ...]
    first_byte: int = 0

    @property
    def length_s(self) -> float:
        """How long it sounds."""
        return self.size_bytes / 2 / RATE_HZ

    def halves(self) -> tuple[SpooledPiece, SpooledPiece] | None:
        """Return it cut in a pause near its middle; None: there is no pause."""
        parts = halved([(span.start_s, span.end_s) for span in self.speech], self.stretches)
        if parts is None:
            return None
        first, second = (
            replace(
                self,
                start_s=part.start_s,
                end_s=part.end_s,
                speech=tuple(Span(a, b) for a, b in part.speech),
                size_bytes=part.past_byte - part.first_byte,
                stretches=part.stretches,
                first_byte=self.first_byte + part.first_byte,
            )
            for part in parts
        )
        return first, second


@dataclass(slots=True)
class LongAudio:
    """One audio to be heard in pieces.

    Attributes:
        facts: The request's.
        story: Told of engines and pieces.
        headers: For engines, but for the content type.
        language: As the client gave it, or as the first piece was heard in; None: not known yet.
            Pieces sent before it is known find their own, and are heard again if that differs.
        file: Descriptor of the file that holds the upload.
        enqueued_at: When the request came, by which pieces take their turn.
        urgency: Of the pieces.
        skip_silence: Whether pieces without sound are left out.
        partial_ok: Whether a piece that cannot be had may be missing.
        is_stream: Whether somebody reads along: the leading piece then is short and goes alone, for
            beside all others it would be heard no sooner than they.
    """

    facts: RequestFacts
    story: Story
    headers: Headers
    language: str | None
    file: int
    enqueued_at: float
    urgency: Urgency
    skip_silence: bool
    partial_ok: bool
    is_stream: bool = False
    _leader_heard: asyncio.Event = field(default_factory=asyncio.Event)
    _has_leader: bool = False

    def leads(self) -> bool:
        """Return whether the piece that asks now is the first one with speech."""
        is_leader = not self._has_leader
        self._has_leader = True
        return is_leader

    def heard_leader(self, language: str | None) -> None:
        """Take the language that the leading piece was heard in; None: it has none."""
        self.language = self.language or language
        self._leader_heard.set()

    async def wait_for_leader(self) -> None:
        """Wait until the leading piece has been heard."""
        await self._leader_heard.wait()
