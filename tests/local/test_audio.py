import io
import struct
import subprocess
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_router.audio.wav import silence
from vllm_router.local.audio import (
    CHUNK_S,
    QUIET_SAMPLES,
    RATE_HZ,
    Samples,
    decode,
    log_mel,
    mel_filters,
    quietest,
    split,
)
from vllm_router.local.errors import ApiError


def tone(seconds: float, rate_hz: int = RATE_HZ, channels: int = 1) -> bytes:
    """Return a WAV of 440 Hz at half volume."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    pcm = (16384 * np.sin(2 * np.pi * 440 * t)).astype("<i2")
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.repeat(pcm, channels).tobytes())
    return out.getvalue()


def encoded(kind: str, codec: str, seconds: float) -> bytes:
    """Return the tone in another container."""
    out = io.BytesIO()
    with (
        av.open(io.BytesIO(tone(seconds, 48_000))) as source,
        av.open(out, "w", format=kind) as target,
    ):
        stream = target.add_stream(codec, rate=48_000, layout="mono")
        for frame in source.decode(audio=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return out.getvalue()


def test_tags_that_are_not_utf_8_do_no_harm() -> None:
    plain = tone(1.0)
    title = b"INFOINAM" + struct.pack("<I", 6) + b"M\xfcller"
    tagged = plain[:36] + b"LIST" + struct.pack("<I", len(title)) + title + plain[36:]
    assert len(decode(tagged)) == RATE_HZ


@pytest.mark.parametrize(("rate_hz", "channels"), [(16_000, 1), (44_100, 2), (8_000, 1)])
def test_any_wav_becomes_16_khz_mono(rate_hz: int, channels: int) -> None:
    samples = decode(tone(1.5, rate_hz, channels))
    assert samples.dtype == np.float32
    assert abs(len(samples) / RATE_HZ - 1.5) < 0.02
    assert abs(float(np.abs(samples).max()) - 0.5) < 0.05


@pytest.mark.parametrize(
    ("kind", "codec"), [("flac", "flac"), ("ogg", "libopus"), ("mp3", "mp3"), ("mp4", "aac")]
)
def test_other_containers_are_decoded(kind: str, codec: str) -> None:
    samples = decode(encoded(kind, codec, 2.0))
    assert abs(len(samples) / RATE_HZ - 2.0) < 0.1


@pytest.mark.parametrize("kind", ["mov", "caf"])
def test_eight_channels_of_pcm_do_not_end_the_process(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    source = ["-f", "lavfi", "-i", "anullsrc=r=16000:cl=7.1", "-t", "0.2"]
    subprocess.run(["ffmpeg", "-v", "error", *source, "-c:a", "pcm_s16le", str(path)], check=True)
    # What fails here is no exception but a crash, and must not take the other tests along.
    code = "import sys, pathlib; from vllm_router.local.audio import decode\n"
    code += "print(len(decode(pathlib.Path(sys.argv[1]).read_bytes())))"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, b"3200")


@pytest.mark.parametrize(
    "data", [b"", b"not audio at all", tone(1.0)[:20], b"RIFF\xff\xff\xff\xffWAVE", bytes(5000)]
)
def test_what_is_no_audio_is_refused(data: bytes) -> None:
    with pytest.raises(ApiError, match="Invalid or corrupted audio data") as caught:
        decode(data)
    assert caught.value.status == 400


def test_a_file_without_samples_is_refused() -> None:
    with pytest.raises(ApiError):
        decode(silence(0.1)[:44])


def test_audio_over_600_s_is_refused_whatever_its_header_says() -> None:
    with pytest.raises(ApiError, match="maximum allowed duration of 600s"):
        decode(silence(601.0))
    raw = encoded("ogg", "libopus", 1.0)
    assert len(decode(raw))
    # A stream of unknown length: RIFF sizes of all ones, as live recorders write them.
    endless = silence(601.0)
    endless = endless[:40] + struct.pack("<I", 0xFFFFFFFF) + endless[44:]
    with pytest.raises(ApiError, match="maximum allowed duration of 600s"):
        decode(endless)


@settings(max_examples=30, deadline=None)
@given(seconds=st.floats(0.1, 200.0), seed=st.integers(0, 1000))
def test_no_sample_is_lost_or_doubled_by_cutting(seconds: float, seed: int) -> None:
    noise = np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ))
    samples: Samples = noise.astype(np.float32)
    chunks = split(samples)
    assert np.array_equal(np.concatenate([one.samples for one in chunks]), samples)
    assert all(0 < len(one.samples) <= CHUNK_S * RATE_HZ for one in chunks)
    assert all(len(one.samples) >= (CHUNK_S - 1) * RATE_HZ for one in chunks[:-1])
    starts = [round(one.start_s * RATE_HZ) for one in chunks]
    assert starts == [0, *np.cumsum([len(one.samples) for one in chunks])[:-1].tolist()]


def test_a_cut_falls_into_the_pause() -> None:
    samples = np.ones(40 * RATE_HZ, dtype=np.float32)
    pause = slice(round(29.4 * RATE_HZ), round(29.6 * RATE_HZ))
    samples[pause] = 0.0
    end = quietest(samples, 29 * RATE_HZ, 30 * RATE_HZ)
    assert pause.start + QUIET_SAMPLES // 2 <= end <= pause.stop
    assert len(split(samples)[0].samples) == end


def test_mel_filters_have_slaneys_shape() -> None:
    filters = mel_filters(80)
    assert filters.shape == (80, 201)
    assert filters.dtype == np.float32
    assert (filters >= 0).all()
    assert (filters.max(axis=1) > 0).all()
    # Area 2 / bandwidth: narrow low filters are high, wide high ones are low.
    assert filters[0].max() > filters[-1].max()


def test_log_mel_is_whispers() -> None:
    features = log_mel(decode(tone(1.0)), mel_filters(80))
    assert features.shape == (80, 3000)
    assert features.dtype == np.float32
    assert features.flags["C_CONTIGUOUS"]
    # 440 Hz lies in the eleventh filter; nothing is more than eight below the maximum, over four.
    assert int(features[:, 50].argmax()) in (10, 11)
    assert float(features.max() - features.min()) <= 2.0 + 1e-6
    silent = log_mel(np.zeros(100, dtype=np.float32), mel_filters(128))
    assert np.allclose(silent, (-10 + 4) / 4)
