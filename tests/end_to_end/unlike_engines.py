"""Engines unlike vLLM with Whisper: each does what one of them does, over a real socket.

What they hear are bursts of noise (`speech`); to each they say one sentence.
"""

from __future__ import annotations

import io
import re
import wave
from collections.abc import Callable

import numpy as np
from tests.requests.parrots import Heard, Reply

#: A burst, and from one to the next, in seconds: one fits into the piece that begins a stream.
BURST_S = 5.0
PERIOD_S = 5.6
#: What is said in a burst at an ordinary rate.
SENTENCE = "The quick brown fox jumps over the lazy dog while all of them watch it go."

Answers = Callable[[Heard], Reply]


def speech(bursts: int, rate_hz: int = 16_000) -> bytes:
    """Return a WAV of so many bursts of noise; 8 bits a sample at 8 kHz."""
    rng = np.random.default_rng(7)
    count = int(PERIOD_S * rate_hz)
    noise = rng.normal(0, 3000, count)
    pcm = np.where(np.arange(count) < BURST_S * rate_hz, noise, 0)
    is_small = rate_hz == 8_000
    period = (
        (pcm / 256 + 128).round().astype("u1") if is_small else pcm.round().astype("<i2")
    ).tobytes()
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1 if is_small else 2)
        file.setframerate(rate_hz)
        file.writeframes(period * bursts)
    return out.getvalue()


def seconds(audio: bytes) -> float:
    """Return a WAV's length, 0 for anything else."""
    if not audio.startswith(b"RIFF"):
        return 0.0
    with wave.open(io.BytesIO(audio)) as file:
        return file.getnframes() / file.getframerate()


def bursts_in(audio: bytes) -> int:
    """Return how many bursts an engine hears in a WAV; 2 in anything else."""
    if not audio.startswith(b"RIFF"):
        return 2
    with wave.open(io.BytesIO(audio)) as file:
        data, rate = file.readframes(file.getnframes()), file.getframerate()
        is_small = file.getsampwidth() == 1
    pcm = np.frombuffer(data, "u1").astype(int) - 128 if is_small else np.frombuffer(data, "<i2")
    step = rate // 10
    loud = np.abs(pcm[: len(pcm) // step * step].reshape(-1, step)).mean(axis=1) > (
        3 if is_small else 300
    )
    return int(loud[0]) + int((loud[1:] & ~loud[:-1]).sum()) if len(loud) else 0


def words(heard: Heard) -> Reply:
    """Say a sentence for each burst, as json."""
    text = " ".join([SENTENCE] * bursts_in(heard.audio))
    return 200, {"text": text, "usage": {"type": "duration", "seconds": 1}}


def error(message: str, status: int = 400, param: str | None = None) -> Reply:
    """Refuse as vLLM does."""
    kind = "BadRequestError" if status < 500 else "InternalServerError"
    said = {"message": message, "type": kind, "param": param, "code": status}
    return status, {"error": said}


def without_verbose_json(heard: Heard) -> Reply:
    """Answer as Voxtral on vLLM."""
    if heard.fields.get("response_format") == "verbose_json":
        return error("Currently do not support verbose_json for the model")
    return words(heard)


def without_language(heard: Heard) -> Reply:
    """Answer as an engine that forbids fields it does not know."""
    if "language" in heard.fields:
        detail = {"type": "extra_forbidden", "loc": ["body", "language"], "input": "de"}
        return 422, {"detail": [{**detail, "msg": "Extra inputs are not permitted"}]}
    return without_verbose_json(heard)


def without_mp4(heard: Heard) -> Reply:
    """Answer as vLLM before it read MP4, M4A and WebM, and before it had verbose_json."""
    if not heard.audio.startswith((b"RIFF", b"fLaC", b"OggS", b"ID3", b"\xff")):
        return error("Error opening <_io.BytesIO>: Format not recognised.", 500)
    if heard.fields.get("response_format") not in (None, "json", "text"):
        return error("Currently only support response_format `text` or `json`")
    return words(heard)


def within(max_s: float, max_bytes: int) -> Answers:
    """Answer as vLLM with limits."""

    def answers(heard: Heard) -> Reply:
        if len(heard.audio) > max_bytes:
            size_mb = len(heard.audio) / 2**20
            return error(f"Maximum file size exceeded (parameter=audio_filesize_mb, "
                         f"value={size_mb})", param="audio_filesize_mb")  # fmt: skip
        if seconds(heard.audio) > max_s:
            found = f"(file contains {seconds(heard.audio):.1f}s at 16000Hz)"
            return error(
                f"Audio exceeds maximum allowed duration of {max_s:g}s {found}. Set "
                "VLLM_MAX_AUDIO_DECODE_DURATION_S to increase this limit."
            )
        return words(heard)

    return answers


def without_subtitles(heard: Heard) -> Reply:
    """Answer as vLLM, which writes no SRT and no VTT."""
    if heard.fields.get("response_format") in ("srt", "vtt"):
        return error(
            "Currently only support response_format: `text`, `json`, `verbose_json` or "
            "`diarized_json`"
        )
    return words(heard)


def cue_times(text: str) -> list[tuple[float, float]]:
    """Return the start and end of each cue of SRT or VTT, in seconds."""
    stamp = r"(?:(\d+):)?(\d\d):(\d\d)[.,](\d\d\d)"
    found = re.findall(f"{stamp} --> {stamp}", text)
    return [(_seconds(each[:4]), _seconds(each[4:])) for each in found]


def _seconds(parts: tuple[str, ...]) -> float:
    hours, minutes, secs, millis = parts
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(secs) + int(millis) / 1000


def is_near_speech(at_s: float, tolerance_s: float = 0.5) -> bool:
    """Whether a moment lies within a burst, or not further than this from one."""
    place = at_s % PERIOD_S
    return place <= BURST_S + tolerance_s or place >= PERIOD_S - tolerance_s
