"""Requests whose right answers are known beforehand.

Each upload holds bytes that no other has. A simulated engine names the digest of what it was sent
in its words, so an answer is right only if it was made from this very upload, whole. Audio that the
router cuts is cut here too, by the same rule, and each piece's digest must come back in its place.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import av
import numpy as np
from benchmarks.chaos.nonsense import KEY
from tests.fake_engine.words import WINDOW_S, window_text

from vllm_router.audio.levels import LevelDetector
from vllm_router.audio.split import Cutter
from vllm_router.audio.wav import pcm16_wav
from vllm_router.requests.fanout import LEADER_S

MODEL = "openai/whisper-small"
RATE_HZ = 16_000
#: `--split-longer-than-s` of the routers: longer audio is cut.
SPLIT_S = 60.0
_BOUNDARY = b"chaos-7d1f0c5a"
#: Seconds of sound that all uploads are cut from; the longest upload is as long.
_BASE_S = 240
_MARKED_NAME = "marked.wav"
#: Tells an engine that an upload is marked; routers pass unknown headers on.
MARK = b"x-chaos-marked"
_WAV_HEAD_BYTES = 44
_STAMP = 8


@dataclass(frozen=True, slots=True)
class Request:
    """One request and what must come back.

    Attributes:
        number: From 0; no two are alike.
        kind: What it is, for the table.
        head: The HTTP head.
        body: The body, framed as the head says.
        response_format: As asked.
        stream: "", "openai" or "vllm".
        expected: The words of the right answer; None: it must be refused.
        refusal: The status that it must be refused with, where `expected` is None.
        audio_s: Its length.
        pace_s: Seconds over which the client spreads its upload.
        leaves_after_s: The client leaves then; None: it stays.
    """

    number: int
    kind: str
    head: bytes
    body: bytes
    response_format: str
    stream: str
    expected: tuple[str, ...] | None
    refusal: int
    audio_s: float
    pace_s: float
    leaves_after_s: float | None


class Requests:
    """Makes requests, each its own.

    Args:
        rng: Decides what they are.
        long_share: Part of the requests whose audio is cut.
    """

    def __init__(self, rng: random.Random, long_share: float = 0.005) -> None:
        self._rng = rng
        self._long_share = long_share
        self._numbers = itertools.count()
        self._salt = rng.randbytes(8)
        self._base = _speech_like(rng.getrandbits(32), _BASE_S)
        self._compressed = {name: _encoded(self._base[: 6 * RATE_HZ], name) for name in _CODECS}

    def __iter__(self) -> Iterator[Request]:
        while True:
            yield self.next()

    def next(self) -> Request:
        """Return the next request."""
        rng, number = self._rng, next(self._numbers)
        lot = rng.random()
        if lot < self._long_share:
            return self._made(number, "long", rng.uniform(70, _BASE_S))
        if lot < 0.03:
            return self._made(number, "two windows", rng.uniform(31, 59))
        if lot < 0.07:
            return self._compressed_request(number)
        if lot < 0.08:
            return self._refused(number)
        if lot < 0.10:
            return self._made(number, "leaves", rng.uniform(0.5, 10), leaves=rng.uniform(0, 0.3))
        if lot < 0.12:
            return self._made(number, "slow upload", rng.uniform(1, 10), pace_s=rng.uniform(0.2, 2))
        if lot < 0.18:
            return self._marked(number)
        if lot < 0.30:
            return self._made(number, "short", rng.uniform(3, 29))
        return self._made(number, "clip", rng.uniform(0.3, 3))

    def _stamp(self, number: int) -> bytes:
        return hashlib.blake2b(self._salt + number.to_bytes(8, "big"), digest_size=16).digest()

    def _pcm(self, number: int, seconds: float) -> bytes:
        count = int(seconds * RATE_HZ)
        at = self._rng.randrange(len(self._base) - count + 1)
        samples = self._base[at : at + count].copy()
        # In each second, and thus in each piece; as quiet as the sound around it.
        stamp = np.frombuffer(self._stamp(number), "<i2") >> 4
        whole = count // RATE_HZ * RATE_HZ
        samples[:whole].reshape(-1, RATE_HZ)[:, :_STAMP] = stamp
        samples[whole : whole + _STAMP] = stamp[: max(0, min(_STAMP, count - whole))]
        return samples.tobytes()

    def _made(
        self, number: int, kind: str, seconds: float, pace_s: float = 0, leaves: float | None = None
    ) -> Request:
        pcm = self._pcm(number, seconds)
        audio = pcm16_wav(pcm)
        seconds = len(pcm) / 2 / RATE_HZ
        options = self._options()
        if seconds > SPLIT_S:
            words = _words_in_pieces(pcm, is_stream=bool(options[1]))
        else:
            words = _words_of(audio, seconds)
        return self._request(
            number,
            kind,
            audio,
            "a.wav",
            words,
            seconds,
            pace_s=pace_s,
            leaves=leaves,
            options=options,
        )

    def _marked(self, number: int) -> Request:
        """Return a large upload in which every byte tells whose it is."""
        seconds = self._rng.uniform(4, 40)
        word = _word(number)
        audio = pcm16_wav(word * int(seconds * RATE_HZ * 2 / len(word)))
        seconds = (len(audio) - _WAV_HEAD_BYTES) / 2 / RATE_HZ
        words = _words_of(audio, seconds)
        # Half of them as streams: where these begin too early, they stay open for a while.
        options = ("json", "openai") if self._rng.random() < 0.5 else self._options()
        return self._request(number, "marked", audio, _MARKED_NAME, words, seconds, options=options)

    def _options(self) -> tuple[str, str]:
        return self._rng.choices(_WISHES, _WEIGHTS)[0]

    def _compressed_request(self, number: int) -> Request:
        name = self._rng.choice(list(_CODECS))
        audio = _COMPRESSED[name](self._compressed[name], self._stamp(number))
        return self._request(number, name, audio, f"a.{name}", _words_of(audio, 6.0), 6.0)

    def _refused(self, number: int) -> Request:
        if self._rng.random() < 0.5:
            audio = pcm16_wav(self._pcm(number, 1.0))
            return self._request(number, "unknown model", audio, "a.wav", None, 1.0, refusal=404)
        # As text: random bytes look like frames of MP3 now and then.
        junk = b"no audio" + self._stamp(number).hex().encode() * 32
        return self._request(number, "no audio", junk, "a.wav", None, 1.0, refusal=400)

    def _request(
        self,
        number: int,
        kind: str,
        audio: bytes,
        filename: str,
        expected: tuple[str, ...] | None,
        seconds: float,
        pace_s: float = 0.0,
        leaves: float | None = None,
        refusal: int = 0,
        options: tuple[str, str] | None = None,
    ) -> Request:
        rng = self._rng
        response_format, stream = options or self._options()
        fields = [(b"model", b"nobody/has-this" if refusal == 404 else MODEL.encode())]
        fields.append((b"response_format", response_format.encode()))
        if stream:
            fields.append((b"stream", b"true"))
        if rng.random() < 0.5:
            fields.append((b"language", b"en"))
        file = (
            b'--%b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n'
            b"Content-Type: application/octet-stream\r\n\r\n" % (_BOUNDARY, filename.encode())
        )
        plain = b"".join(
            b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
            % (_BOUNDARY, name, value)
            for name, value in fields
        )
        end = b"--%b--\r\n" % _BOUNDARY
        # Either order is a form that clients send.
        parts = (file, audio, b"\r\n", plain, end) if rng.random() < 0.5 else (
            plain, file, audio, b"\r\n", end
        )  # fmt: skip
        body = b"".join(parts)
        if is_chunked := rng.random() < 0.1:
            body = _chunked(body, rng.choice((1000, 16_384, 100_000)))
        framing = b"transfer-encoding: chunked" if is_chunked else b"content-length: %d" % len(body)
        if filename == _MARKED_NAME:
            framing += b"\r\n%b: yes" % MARK
        head = (
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: chaos\r\nauthorization: Bearer %b\r\n"
            b"content-type: multipart/form-data; boundary=%b\r\nx-request-id: c%d\r\n"
            b"x-stream-format: %b\r\n%b\r\n\r\n"
            % (KEY.encode(), _BOUNDARY, number, stream.encode() or b"openai", framing)
        )
        return Request(
            number, kind, head, body, response_format, stream, expected, refusal, seconds, pace_s,
            leaves,
        )  # fmt: skip


def _word(number: int) -> bytes:
    return b"c%015d" % number


def foreign_bytes(body: bytes, request_id: str) -> str | None:
    """Return what in the form of a marked upload is not its own, empty if all is.

    Args:
        body: What came of the form, from its start.
        request_id: As the client named it, `c` and the request's number.

    Returns:
        None: the upload is not marked, or that cannot be told yet.
    """
    at = body.find(b'filename="%b"' % _MARKED_NAME.encode())
    start = body.find(b"\r\n\r\n", at) + 4
    pcm = start + _WAV_HEAD_BYTES
    if at < 0 or start < 4 or len(body) <= pcm or not request_id[1:].isdigit():
        return None
    size = int.from_bytes(body[pcm - 4 : pcm], "little")
    sound = body[pcm : pcm + size]
    word = _word(int(request_id[1:]))
    expected = (word * (len(sound) // len(word) + 1))[: len(sound)]
    if sound != expected:
        wrong = next(i for i in range(len(sound)) if sound[i] != expected[i])
        return f"{sound[wrong : wrong + 32]!r} at byte {pcm + wrong}"
    form = body[:start] + body[pcm + size :]
    if any((byte < 32 and byte not in b"\r\n") or byte > 126 for byte in form):
        return f"the form's fields hold {form!r}"[:200]
    return ""


#: (response_format, stream) and how often.
_MIX = {
    ("json", ""): 40,
    ("text", ""): 15,
    ("verbose_json", ""): 15,
    ("srt", ""): 4,
    ("vtt", ""): 4,
    ("json", "openai"): 16,
    ("json", "vllm"): 6,
}
_WISHES, _WEIGHTS = list(_MIX), list(_MIX.values())


def _words_of(audio: bytes, seconds: float) -> tuple[str, ...]:
    digest = hashlib.sha256(audio).hexdigest()
    count = max(1, math.ceil(seconds / WINDOW_S))
    return tuple(
        word
        for index in range(count)
        for sentence in window_text(
            digest, index, length_s=min(WINDOW_S, seconds - index * WINDOW_S)
        )
        for word in sentence.split()
    )


def _words_in_pieces(pcm: bytes, *, is_stream: bool) -> tuple[str, ...]:
    cutter = Cutter(LevelDetector(), first_s=(LEADER_S,) if is_stream else ())
    pieces = [*cutter.feed(pcm), *cutter.flush()]
    return tuple(
        word
        for piece in pieces
        if not piece.is_silent
        for word in _words_of(piece.wav(), len(piece.pcm) / 2 / RATE_HZ)
    )


def _speech_like(seed: int, seconds: int) -> np.ndarray:
    """Return phrases of noise with pauses between them, 16 bits."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(0, 1500, seconds * RATE_HZ)
    at = 0.0
    while at < seconds:
        at += rng.uniform(1.5, 6)
        pause_s = rng.uniform(0.3, 1.0)
        samples[int(at * RATE_HZ) : int((at + pause_s) * RATE_HZ)] *= 0.005
        at += pause_s
    return samples.clip(-32768, 32767).astype("<i2")


def _chunked(body: bytes, size: int) -> bytes:
    parts = []
    for at in range(0, len(body), size):
        chunk = body[at : at + size]
        parts.append(b"%x\r\n%b\r\n" % (len(chunk), chunk))
    return b"".join(parts) + b"0\r\n\r\n"


_CODECS = {"mp3": "libmp3lame", "flac": "flac"}


def _encoded(samples: np.ndarray, name: str) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=name) as container:
        stream = cast(av.AudioStream, container.add_stream(_CODECS[name], rate=RATE_HZ))
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = RATE_HZ
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=RATE_HZ)
        fifo = av.AudioFifo()
        for resampled in resampler.resample(frame):
            fifo.write(resampled)
        size = stream.codec_context.frame_size or 4096
        while piece := fifo.read(size, partial=True):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return out.getvalue()


def _stamped_mp3(audio: bytes, stamp: bytes) -> bytes:
    """Put the stamp into a TXXX frame of an ID3v2.3 tag in front."""
    text = b"\0stamp\0" + stamp.hex().encode()
    frame = b"TXXX" + struct.pack(">IH", len(text), 0) + text
    return b"ID3\x03\0\0" + bytes((0, 0, 0, len(frame))) + frame + audio


def _stamped_flac(audio: bytes, stamp: bytes) -> bytes:
    """Put the stamp into an APPLICATION block behind STREAMINFO."""
    head = 4 + 4 + 34
    block = b"test" + stamp
    return audio[:head] + b"\x02" + len(block).to_bytes(3, "big") + block + audio[head:]


_COMPRESSED = {"mp3": _stamped_mp3, "flac": _stamped_flac}
