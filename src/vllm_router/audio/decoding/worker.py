"""The worker process that decodes and cuts one audio after the other, from one socket.

Promises: it ends when its socket does, stays within its limits of memory and time, and knows
nothing of the router except what a job contains: no keys, no settings. It sends a piece only when
the socket has room for it, so that it works at the router's pace.

A job is a length, JSON, and the file's descriptor as ancillary data. Each answer is a kind, two
lengths, JSON, and samples: any number of "piece", then "end" with the audio's length and the file's
damage, or "error" or "unknown format" with a sentence. "Goes on" reports progress during long audio
without speech.
"""

import contextlib
import json
import math
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from vllm_router.audio.channels import Channels
from vllm_router.audio.decoding.channel_pieces import MAX_LAG_S, ChannelCutter, channel_blocks
from vllm_router.audio.decoding.samples import (
    ByteRange,
    NotAudio,
    UnknownFormat,
    read_samples,
)
from vllm_router.audio.decoding.voice_activity import Voice, VoiceDetector
from vllm_router.audio.levels import RATE_HZ, LevelDetector
from vllm_router.audio.split import Cutter, Detector, Piece

JOB_LENGTH: Final = struct.Struct("!I")
ANSWER: Final = struct.Struct("!cII")
PIECE: Final = b"p"
END: Final = b"e"
ERROR: Final = b"x"
UNKNOWN: Final = b"u"
GOES_ON: Final = b"g"
READY: Final = b"r"
SILERO: Final = "silero"
LEVEL: Final = "level"
OFF: Final = "off"
# Ten minutes of audio, which take seconds: the router gives up after a minute without progress.
_SILENT_BYTES: Final = 600 * 2 * RATE_HZ
_MOST_FILES: Final = 32
"""Descriptors: its socket, the upload, three that go to /dev/null, temporarily the model's file."""
_NICE: Final = 5
"""The event loop, which all requests share, takes precedence over decoding, which few wait for."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to decode: a range of the file that comes with it, and how to cut it."""

    offset: int
    size_bytes: int
    max_audio_s: float
    max_piece_s: float
    first_s: tuple[float, ...]
    keeps_silence: bool
    vad: str
    cpu_s: int = 60
    channels: str = Channels.MIX
    only_length: bool = False

    def encode(self) -> bytes:
        """Return the job in its wire format."""
        body = json.dumps(asdict(self)).encode()
        return JOB_LENGTH.pack(len(body)) + body


class Detectors:
    """Creates a detector for each audio; the neural network is loaded once, when first needed."""

    def __init__(self) -> None:
        self._voice: Voice | None = None

    def __repr__(self) -> str:
        return f"<Detectors {self._voice}>"

    def prepare(self, vad: str) -> None:
        """Load the resources of a kind of detector."""
        if vad == SILERO and self._voice is None:
            self._voice = Voice()

    def make(self, vad: str) -> Detector:
        """Return a detector for one audio.

        Raises:
            MemoryError: There is not enough memory to load the network.
        """
        self.prepare(vad)
        return (
            LevelDetector() if self._voice is None or vad != SILERO else VoiceDetector(self._voice)
        )


Allow = Callable[[int], None]


def serve(sock: socket.socket, vad: str = LEVEL, allow: Allow = lambda _: None) -> None:
    """Process jobs from `sock` until its other end is closed.

    Args:
        sock: The source of jobs.
        vad: The detector to prepare for the first job.
        allow: Grants the process a number of further CPU seconds; called when a job starts and when
            it makes progress.
    """
    detectors = Detectors()
    sock.sendall(ANSWER.pack(READY, 0, 0))
    # No caller waits for this: it is finished by the time an upload has arrived.
    with contextlib.suppress(MemoryError):
        detectors.prepare(vad)
    while (received := _next_job(sock)) is not None:
        job, fd = received
        try:
            _decode(sock, job, fd, detectors, allow)
        finally:
            os.close(fd)


def _next_job(sock: socket.socket) -> tuple[Job, int] | None:
    data, fds, _, _ = socket.recv_fds(sock, JOB_LENGTH.size, 1)
    while data and len(data) < JOB_LENGTH.size:
        data += sock.recv(JOB_LENGTH.size - len(data))
    if not data:
        return None
    (length,) = JOB_LENGTH.unpack(data)
    fields = json.loads(sock.recv(length, socket.MSG_WAITALL))
    fields["first_s"] = tuple(fields["first_s"])
    return Job(**fields), fds[0]


def _decode(sock: socket.socket, job: Job, fd: int, detectors: Detectors, allow: Allow) -> None:
    notes: list[str] = []
    allow(job.cpu_s)
    try:
        if job.only_length:
            _send(sock, END, json.dumps([_length_s(job, fd, notes), 0.0, notes]).encode())
            return
        cutter: ChannelCutter | None = None
        file = ByteRange(fd, job.offset, job.size_bytes)
        silent = 0
        for blocks in channel_blocks(file, job.max_audio_s, Channels(job.channels), notes.append):
            silent += max(map(len, blocks))
            if silent > _SILENT_BYTES:
                _send(sock, GOES_ON, b"")
                allow(job.cpu_s)
                silent = 0
            if cutter is None:
                cutter = ChannelCutter([_cutter(job, detectors, len(blocks)) for _ in blocks])
            for piece in cutter.feed(blocks):
                silent = 0
                _send(sock, PIECE, _described(piece), piece.pcm)
                allow(job.cpu_s)
        assert cutter is not None, "what holds no sound is no audio"
        for piece in cutter.flush():
            _send(sock, PIECE, _described(piece), piece.pcm)
        _send(sock, END, json.dumps([cutter.length_s, cutter.speech_s, notes]).encode())
    except UnknownFormat as error:
        _send(sock, UNKNOWN, str(error).encode())
    except NotAudio as error:
        _send(sock, ERROR, str(error).encode())
    except MemoryError:
        _send(sock, ERROR, b"The audio file needs too much memory to decode.")


def _cutter(job: Job, detectors: Detectors, channels: int) -> Cutter:
    return Cutter(
        detectors.make(job.vad),
        max_s=job.max_piece_s,
        first_s=job.first_s,
        keeps_silence=job.keeps_silence,
        max_lag_s=MAX_LAG_S if channels > 1 else None,
    )


def _length_s(job: Job, fd: int, notes: list[str]) -> float:
    file = ByteRange(fd, job.offset, job.size_bytes)
    blocks = read_samples(file, job.max_audio_s, note=notes.append)
    return sum(map(len, blocks)) / 2 / RATE_HZ


def _described(piece: Piece) -> bytes:
    fields = [piece.index, piece.start_s, piece.end_s, piece.speech, piece.stretches]
    return json.dumps([*fields, piece.channel, piece.frontier_s]).encode()


def _send(sock: socket.socket, kind: bytes, meta: bytes, pcm: bytes = b"") -> None:
    sock.sendall(ANSWER.pack(kind, len(meta), len(pcm)) + meta)
    if pcm:
        sock.sendall(pcm)


def confine(memory_bytes: int) -> None:  # pragma: no cover - would bind the tests themselves
    """Limit this process: memory, files, no core dumps, no writing, a lower priority."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_FILES, _MOST_FILES))
    os.nice(_NICE)


def allow_cpu(seconds: int) -> None:  # pragma: no cover - would bind the tests themselves
    """Have the kernel kill this process once it has used this many CPU seconds from now.

    The router aborts a decoder that is silent for too long. This limit kills one that has lost its
    router: while it loops inside a decoder, it would not notice that its socket is closed.
    """
    used_s = math.ceil(time.process_time())
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = used_s + seconds
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    resource.setrlimit(resource.RLIMIT_CPU, (wanted, most))


def main() -> None:  # pragma: no cover - runs in a process of its own
    """Serve the socket with the first argument's descriptor, within the second's bytes.

    The third names the detector to prepare.
    """
    confine(int(sys.argv[2]))
    # A closed socket means that the router has ended or has abandoned the job.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[3], allow_cpu)


if __name__ == "__main__":
    main()
