"""The channels of an audio in parallel: decoded, freed of copies, and each cut into pieces.

A separate pass over the file decodes each channel, all in step, so that each channel has the same
properties (length, gaps) as the output of a single decoder. A file with one channel is decoded as
usual. Refuses to know: sockets, and how one channel is decoded or cut.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import Final

import numpy as np

from vllm_router.audio.channel_copies import CopyFilter
from vllm_router.audio.channels import MAX_CHANNELS, Channels
from vllm_router.audio.decoding.samples import ByteRange, NotAudio, channel_count, read_samples
from vllm_router.audio.piece import Piece
from vllm_router.audio.split import Cutter

MAX_LAG_S: Final = 120.0
"""If channels are separate, the longest time that few words wait for more in their channel. Later
words of other channels are held back until then. Decoding this much takes about a second."""

#: -60 dBFS: the noise of a line without speech.
_AUDIBLE: Final = 33


def channel_blocks(
    file: ByteRange,
    max_audio_s: float,
    channels: Channels,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[list[bytes]]:
    """Yield the samples of the selected channels like `read_samples`, one block of each at a time.

    Args:
        file: The upload.
        max_audio_s: Longer audio is rejected, in seconds.
        channels: The channels to select.
        note: Called with a sentence about each kind of damage; by every channel's decoder.

    Raises:
        NotAudio: As in `read_samples`; or there are too many channels to separate.
    """
    count = 1 if channels is Channels.MIX else channel_count(file)
    if count > 1 and channels is Channels.EACH:
        yield from _each(file, max_audio_s, count, note)
        return
    channel = None
    if count > 1:
        channel = 1 if channels is Channels.RIGHT else 0
    for block in read_samples(file, max_audio_s, channel, note):
        yield [block]


def _each(
    file: ByteRange, max_audio_s: float, count: int, note: Callable[[str], None]
) -> Iterator[list[bytes]]:
    if count > MAX_CHANNELS:
        raise NotAudio(
            f"The audio has {count} channels; at most {MAX_CHANNELS} can be transcribed separately."
        )
    copies = CopyFilter(count)
    passes = [
        read_samples(ByteRange(file.fd, file.offset, file.size_bytes), max_audio_s, channel, note)
        for channel in range(count)
    ]
    for blocks in zip_longest(*passes, fillvalue=b""):
        yield copies.feed(list(blocks))
    yield copies.flush()


class ChannelCutter:
    """Cuts the channels of one audio into pieces, in the order in which they are decided.

    Args:
        cutters: One for each channel.
    """

    def __init__(self, cutters: list[Cutter]) -> None:
        self._cutters = cutters
        self._index = 0

    def __repr__(self) -> str:
        return f"<ChannelCutter {self._cutters}>"

    @property
    def length_s(self) -> float:
        """Seconds of audio fed so far."""
        return max(cutter.length_s for cutter in self._cutters)

    @property
    def speech_s(self) -> float:
        """Seconds of speech found so far in all channels."""
        return sum(cutter.speech_s for cutter in self._cutters)

    def feed(self, blocks: list[bytes]) -> list[Piece]:
        """Take the next samples of each channel; return the pieces that they decide."""
        return self._in_order(
            [cutter.feed(block) for cutter, block in zip(self._cutters, blocks, strict=True)]
        )

    def flush(self) -> list[Piece]:
        """Return the remaining pieces after the audio has ended."""
        return self._in_order([cutter.flush() for cutter in self._cutters])

    def _in_order(self, found: list[list[Piece]]) -> list[Piece]:
        pieces = [
            replace(piece, channel=channel if len(found) > 1 else None)
            for channel, its in enumerate(found)
            for piece in its
            # If silence is kept, a channel without any speech would cost as much as one with
            # speech.
            if len(found) == 1 or not _is_inaudible(piece.pcm)
        ]
        pieces.sort(key=_start)
        frontier_s = min(cutter.next_s for cutter in self._cutters)
        for at in range(len(pieces) - 1, -1, -1):
            index = self._index + at
            pieces[at] = replace(pieces[at], index=index, frontier_s=frontier_s)
            frontier_s = min(frontier_s, pieces[at].start_s)
        self._index += len(pieces)
        return pieces


def _is_inaudible(pcm: bytes) -> bool:
    samples = np.frombuffer(pcm, "<i2")
    return not len(samples) or int(np.abs(samples.astype(np.int32)).max()) < _AUDIBLE


def _start(piece: Piece) -> float:
    return piece.start_s
