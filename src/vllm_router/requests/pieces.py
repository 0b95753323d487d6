"""Audio that is transcribed in pieces, and the pieces: values and their bounds."""

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
    """The outcome of one piece.

    Attributes:
        start_s: Where it begins in the whole audio.
        end_s: Where it ends.
        transcript: Its transcript, in the whole audio's time; None: it has no speech, or is
            missing.
        speech: Stretches of speech, in the whole audio's time.
        missing: Why it could not be transcribed; None if it was.
        channel: Its channel; None: there is only one.
        frontier_s: No later result, in any channel, begins before this.
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
    """The stretches of speech in an audio.

    Attributes:
        spans: In order, without overlap, in seconds.
        length_s: Length of the decoded audio.
        damage: Damage to the file, in sentences.
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
        index: 0 for the first piece sent.
        start_s: Where it begins in the whole audio.
        end_s: Where it ends.
        speech: Its stretches of speech, in the whole audio's time.
        stretches: Maps its samples to the audio's time.
        upload: Holds its samples: 16 kHz, mono, 16 bits.
        size_bytes: Size of its samples.
        first_byte: Offset of its samples in the upload; not 0 for a part of a piece.
        deaths: Crashes of engines that were working on it; its halves share them.
        channel: Its channel; None: there is only one.
        frontier_s: No later piece starts before this.
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
        """Seconds of samples; less than from start to end if silence was removed."""
        return self.size_bytes / 2 / RATE_HZ

    def halves(self) -> tuple[SpooledPiece, SpooledPiece] | None:
        """Return it split in a long pause near its middle; None: there is no pause."""
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
        """Return a transcript with times in the piece converted to times in the whole audio."""
        return transcript.on_clock(lambda at_s: heard_at(at_s, self.stretches))


#: Extra windows for second transcriptions: a fixed number per audio, plus a share of the windows
#: sent. Real recordings need one window in twenty; with noise and music, up to one in two.
EXTRA_WINDOWS: Final = 6
EXTRA_SHARE: Final = 0.5
#: Consecutive second transcriptions without improvement before the audio is accepted as it is.
FRUITLESS_LIMIT: Final = 3


@dataclass(slots=True)
class LongAudio:
    """One audio that is transcribed in pieces.

    Attributes:
        request: The request.
        record: Receives engines and pieces.
        headers: For engines, without the content type.
        language: As given by the client; None: detected for each piece.
        file: Descriptor of the file that holds the upload.
        enqueued_at: When the request arrived; determines the pieces' turn in the queue.
        urgency: Urgency of the pieces.
        skip_silence: Whether audio without speech is left out.
        partial_ok: Whether pieces that cannot be transcribed may be missing.
        verifies: Whether transcripts are checked against the speech.
        wants_words: Whether the engine's word timestamps are requested.
        is_stream: Whether the client reads along. The leading piece is then short and is sent
            alone; alongside the others it would not be answered any sooner.
        channels: Channels to transcribe.
        votes: Settles the language.
        rates: Speaking rates in this audio, from the pieces answered so far.
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
        """Whether the language is detected from the pieces."""
        return self.language is None and self.request.task is Task.TRANSCRIBE

    def end_lead(self, index: int) -> None:
        """Release the other pieces if this is the leading one and it is answered or has failed."""
        if index == 0:
            self._leader_is_done.set()

    async def wait_for_leader(self) -> None:
        """Wait until the leading piece has been answered."""
        await self._leader_is_done.wait()

    def sent_of(self, channel: int | None) -> None:
        """Note that a piece of a channel was sent."""
        if channel is not None:
            self._sent_channels.add(channel)
            self.record.channels = len(self._sent_channels)

    def sent(self, windows: int) -> None:
        """Note windows of pieces that are sent for the first time."""
        self._sent_windows += windows

    def may_ask_again(self, windows: int) -> bool:
        """Return whether this many extra windows are within bounds, and count them if so."""
        bound = EXTRA_WINDOWS + EXTRA_SHARE * self._sent_windows
        if self._fruitless >= FRUITLESS_LIMIT or self._extra_windows + windows > bound:
            return False
        self._extra_windows += windows
        return True

    def asked_again(self, *, has_helped: bool) -> None:
        """Note whether a second transcript was better than the first."""
        self._fruitless = 0 if has_helped else self._fruitless + 1
