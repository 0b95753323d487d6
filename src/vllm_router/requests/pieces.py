"""An audio that is transcribed in pieces, and the pieces: values and their bounds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Final

from vllm_router.audio.channels import Channels
from vllm_router.audio.length import MeasuredSeconds
from vllm_router.audio.levels import RATE_HZ
from vllm_router.audio.piece import PiecePart, Stretch, halved, heard_at
from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.formats.transcript import Transcript
from vllm_router.observability.request_record import RequestRecord, Task
from vllm_router.requests.language_votes import LanguageVotes
from vllm_router.requests.transcription_request import TranscriptionRequest
from vllm_router.scheduling.work import Death, Urgency
from vllm_router.spool.upload import Upload
from vllm_router.upstream.call import Headers


@dataclass(frozen=True, slots=True)
class PieceResult:
    """What became of one piece.

    Attributes:
        start_s: Where it begins in the whole audio.
        end_s: Where it ends.
        transcript: Its words, on the whole audio's clock; None: nobody speaks, or it is missing.
        speech: Where somebody speaks, on the whole audio's clock.
        missing: Why it could not be had; None if it could.
        channel: Which channel it is from; None: there is one.
        frontier_s: Nothing that is heard later, in any channel, begins before.
    """

    start_s: float
    end_s: float
    transcript: Transcript | None
    speech: tuple[SpeechSpan, ...] = ()
    missing: str | None = None
    channel: int | None = None
    frontier_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SpeechMap:
    """Where somebody speaks in an audio.

    Attributes:
        spans: In order, without overlap, in seconds.
        length_s: The audio's length as it was decoded.
        damage: How the file is damaged, in sentences.
    """

    spans: tuple[SpeechSpan, ...]
    length_s: MeasuredSeconds
    damage: tuple[str, ...] = ()

    @property
    def speech_s(self) -> float:
        """Seconds of speech."""
        return sum(span.end_s - span.start_s for span in self.spans)


@dataclass(frozen=True, slots=True)
class SpooledPiece:
    """A piece of the audio, waiting to be transcribed.

    Attributes:
        index: 0 for the first that is sent.
        start_s: Where it begins in the whole audio.
        end_s: Where it ends.
        speech: Where somebody speaks in it, on the whole audio's clock.
        stretches: Maps its samples to the audio's clock.
        upload: Holds its samples, 16 kHz, mono, 16 bits.
        size_bytes: The size of its samples.
        first_byte: Where they begin there; not 0 for a part of a piece.
        deaths: Of engines that held it; its halves share them.
        channel: Which channel it is from; None: there is one.
        frontier_s: No piece that comes later starts before.
    """

    index: int
    start_s: float
    end_s: float
    speech: tuple[SpeechSpan, ...]
    stretches: tuple[Stretch, ...]
    upload: Upload
    size_bytes: int
    first_byte: int = 0
    deaths: list[Death] = field(default_factory=list)
    channel: int | None = None
    frontier_s: float = 0.0

    @property
    def length_s(self) -> float:
        """Seconds of sound in it; less than from start to end where non-speech was cut out."""
        return self.size_bytes / 2 / RATE_HZ

    def halves(self) -> tuple[SpooledPiece, SpooledPiece] | None:
        """Return it cut in a long pause near its middle; None: there is no pause."""
        parts = halved(self.speech, self.stretches)
        return None if parts is None else (self._part(parts[0]), self._part(parts[1]))

    def _part(self, part: PiecePart) -> SpooledPiece:
        return replace(
            self,
            start_s=part.start_s,
            end_s=part.end_s,
            speech=tuple(SpeechSpan(a, b) for a, b in part.speech),
            stretches=part.stretches,
            size_bytes=part.past_byte - part.first_byte,
            first_byte=self.first_byte + part.first_byte,
        )

    def on_the_audio(self, transcript: Transcript) -> Transcript:
        """Return a transcript with times in the piece as one with times in the whole audio."""
        return transcript.on_clock(lambda at_s: heard_at(at_s, self.stretches))


#: Windows that asking again may cost an audio whatever its length, and for each window sent. Real
#: recordings need one window in twenty, with noise and music between the words up to one in two.
EXTRA_WINDOWS: Final = 6
EXTRA_SHARE: Final = 0.5
#: Second answers in a row that were no better than the first before the audio is taken as it is.
FRUITLESS_LIMIT: Final = 3


@dataclass(slots=True)
class LongAudio:
    """One audio that is transcribed in pieces.

    Attributes:
        facts: The request's.
        story: Told of engines and pieces.
        headers: For engines, but for the content type.
        language: As the client gave it; None: each piece's own is found.
        file: Descriptor of the file that holds the upload.
        enqueued_at: When the request came, by which pieces take their turn.
        urgency: Of the pieces.
        skip_silence: Whether audio without speech is left out.
        partial_ok: Whether a piece that cannot be had may be missing.
        verifies: Whether answers are held against the speech.
        wants_words: Whether the engine's own times of words are asked for.
        is_stream: Whether the client reads along: the leading piece then is short and goes alone,
            because beside all others it would be answered no sooner than they.
        channels: Which of its channels are transcribed.
        votes: Settles the language.
        rates: How fast the speakers of this audio talk, from the pieces answered so far.
    """

    request: TranscriptionRequest
    record: RequestRecord
    headers: Headers
    language: str | None
    file: int
    enqueued_at: float
    urgency: Urgency
    skip_silence: bool
    partial_ok: bool
    verifies: bool = True
    wants_words: bool = False
    is_stream: bool = False
    channels: Channels = Channels.MIX
    votes: LanguageVotes = field(default_factory=LanguageVotes)
    rates: list[float] = field(default_factory=list)
    _sent_windows: int = 0
    _extra_windows: int = 0
    _fruitless: int = 0
    _sent_channels: set[int] = field(default_factory=set)
    _leader_is_done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def detects_language(self) -> bool:
        """Whether the pieces' own languages decide."""
        return self.language is None and self.request.task is Task.TRANSCRIBE

    def end_lead(self, index: int) -> None:
        """Let the other pieces go if it is the leading one that is answered, or will never be."""
        if index == 0:
            self._leader_is_done.set()

    async def wait_for_leader(self) -> None:
        """Wait until the leading piece has been answered."""
        await self._leader_is_done.wait()

    def sent_of(self, channel: int | None) -> None:
        """Note that a piece of a channel is sent."""
        if channel is not None:
            self._sent_channels.add(channel)
            self.record.channels = len(self._sent_channels)

    def sent(self, windows: int) -> None:
        """Note windows of pieces that are asked for the first time."""
        self._sent_windows += windows

    def may_ask_again(self, windows: int) -> bool:
        """Return whether so many extra windows are within bounds, and count them if so."""
        bound = EXTRA_WINDOWS + EXTRA_SHARE * self._sent_windows
        if self._fruitless >= FRUITLESS_LIMIT or self._extra_windows + windows > bound:
            return False
        self._extra_windows += windows
        return True

    def asked_again(self, *, has_helped: bool) -> None:
        """Note whether a second answer was better than the first."""
        self._fruitless = 0 if has_helped else self._fruitless + 1
