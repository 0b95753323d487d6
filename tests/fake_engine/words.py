"""Words made up from an upload's digest, in the time a service curve gives them.

The words of each 30 s window name its index and the first eight hex digits of the upload's
SHA-256, so that a test can tell whose answer it got, and are the same on every engine. Audio is
not decoded: its length is read from the container's header.
"""

import hashlib
import math
from collections.abc import AsyncIterator, Callable, Sequence

from tests.fake_engine.curve import Curve
from tests.fake_engine.options import RequestOptions

from vllm_router.local.errors import MAX_AUDIO_S, audio_too_long, invalid_audio
from vllm_router.local.responses import Chunk, ResponseSegment

WINDOW_S = 30.0
# Enough of a file's start for the readers of container headers.
KEEP_BYTES = 256 << 10
# A streamed window is sent in this many steps.
STREAM_STEPS = 4

_SENTENCE = (
    "the small router gave each new request to a free engine and then every long recording came "
    "back in one piece with all of its words at the right time while others still waited"
)
_WORDS = tuple(_SENTENCE.split())
_WORDS_PER_S = 2.5
_LEAST_WORDS = 8


def window_text(
    digest: str, index: int, task: str = "transcribe", length_s: float = WINDOW_S
) -> tuple[str, str]:
    """Return the two sentences of a window, with as many words as people say in its length.

    Args:
        digest: SHA-256 of the upload in hex.
        index: Of the window, from 0.
        task: transcribe or translate.
        length_s: Of the window, in seconds.
    """
    count = max(_LEAST_WORDS, min(64, round(_WORDS_PER_S * length_s) - 4))
    lot = hashlib.blake2b(f"{digest}{index}".encode(), digest_size=count).digest()
    words = [_WORDS[byte % len(_WORDS)] for byte in lot]
    name = "Window" if task == "transcribe" else "Translated window"
    half = count // 2
    first = f" {name} {index} of {digest[:8]} {' '.join(words[:half])}."
    return first, f" {words[half].capitalize()} {' '.join(words[half + 1 :])}."


class SimulatedRecording:
    """An upload of known length, cut into windows of 30 s."""

    def __init__(
        self, options: RequestOptions, duration_s: float, source: "SimulatedWords"
    ) -> None:
        self.duration_s = duration_s
        self.language = options.language or "en"
        self._options = options
        self._source = source
        self._count = max(1, math.ceil(duration_s / WINDOW_S))

    async def words(self) -> Sequence[Chunk]:
        """Return all windows once the service curve has finished them."""
        waited_s = await self._source.curve.run(self._count)
        self._source.on_queued(waited_s)
        return [self._chunk(index) for index in range(self._count)]

    async def stream(self) -> AsyncIterator[AsyncIterator[str]]:
        """Return the windows one after the other."""
        for index in range(self._count):
            yield self._words(index)

    async def _words(self, index: int) -> AsyncIterator[str]:
        words = self._chunk(index).text.split(" ")[1:]
        size = math.ceil(len(words) / STREAM_STEPS)
        for at in range(0, len(words), size):
            await self._source.curve.run(1, 1 / STREAM_STEPS)
            for word in words[at : at + size]:
                yield f" {word}"

    def _chunk(self, index: int) -> Chunk:
        start_s = index * WINDOW_S
        length_s = min(WINDOW_S, self.duration_s - start_s)
        first, second = window_text(self._options.file.sha256, index, self._options.task, length_s)
        # Whisper's clock ticks in 0.02 s.
        middle_s = round(length_s / 2 / 0.02) * 0.02
        segments = (
            ResponseSegment(0.0, round(middle_s, 2), first, (50364, 314, 50464), -0.25),
            ResponseSegment(
                round(middle_s, 2), round(length_s, 2), second, (50464, 271, 50564), -0.25
            ),
        )
        return Chunk(start_s, first + second, segments, len(first.split() + second.split()))


class SimulatedWords:
    """Opens uploads by their headers and lets the curve decide how long they take.

    Args:
        curve: The service curve.
        audio_seconds: Reads a container's length: first bytes, size, last bytes.
        on_queued: Hears how many seconds each request waited for its place.
        max_audio_s: Longer audio is refused.
    """

    def __init__(
        self,
        curve: Curve,
        audio_seconds: Callable[[bytes, int, bytes], float | None],
        on_queued: Callable[[float], None],
        max_audio_s: float = MAX_AUDIO_S,
    ) -> None:
        self.curve = curve
        self.on_queued = on_queued
        self._audio_seconds = audio_seconds
        self._max_audio_s = max_audio_s

    def open(self, options: RequestOptions) -> SimulatedRecording:
        """Read the upload's length.

        Raises:
            ApiError: No audio, or longer than is taken.
        """
        file = options.file
        duration_s = self._audio_seconds(bytes(file.head), file.size_bytes, file.tail)
        if duration_s is None or duration_s <= 0:
            raise invalid_audio()
        if duration_s > self._max_audio_s:
            raise audio_too_long(duration_s, self._max_audio_s)
        return SimulatedRecording(options, duration_s, self)
