import contextlib
import io
import struct
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.audio.wav import WavError, pcm16_wav, read_wav_header, silence


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    length = len(body) if size is None else size
    return name + struct.pack("<I", length) + body + b"\0" * (len(body) & 1)


def fmt(
    tag: int = 1, channels: int = 1, rate: int = 16_000, bits: int = 16, extra: bytes = b""
) -> bytes:
    frame = channels * bits // 8 & 0xFFFF
    body = struct.pack("<HHIIHH", tag, channels, rate, rate * frame & 0xFFFFFFFF, frame, bits)
    return chunk(b"fmt ", body + extra)


def riff(*chunks: bytes, name: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return name + struct.pack("<I", len(body)) + body


def test_silence_is_a_header_and_zeros() -> None:
    data = silence(0.1)
    assert len(data) == 44 + 3200
    assert not any(data[44:])
    with wave.open(io.BytesIO(data)) as file:
        assert file.getparams()[:4] == (1, 2, 16_000, 1600)


@pytest.mark.parametrize("duration_s", [0, -1, float("nan")])
def test_silence_of_no_length_is_refused(duration_s: float) -> None:
    with pytest.raises(ValueError, match="duration_s"):
        silence(duration_s)


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes"):
        pcm16_wav(b"abc")


@given(st.binary(max_size=64).map(lambda b: b[: len(b) // 2 * 2]), st.integers(1000, 768_000))
def test_samples_written_are_read_back(pcm: bytes, rate_hz: int) -> None:
    data = pcm16_wav(memoryview(pcm), rate_hz)
    header = read_wav_header(data)
    assert data[header.data_offset :] == pcm
    assert header.seconds(len(data)) == pytest.approx(len(pcm) / 2 / rate_hz)
    assert (header.rate_hz, header.channels, header.bits) == (rate_hz, 1, 16)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind: type) -> None:
    assert read_wav_header(kind(silence(1))).seconds(32_044) == 1.0


@pytest.mark.parametrize(
    ("tag", "bits", "frame"),
    [(1, 8, 2), (1, 16, 4), (1, 24, 6), (1, 20, 6), (1, 32, 8), (3, 32, 8), (3, 64, 16), (6, 8, 2)],
)
def test_every_sample_width_is_understood(tag: int, bits: int, frame: int) -> None:
    data = riff(fmt(tag, 2, 8000, bits), chunk(b"data", bytes(frame * 800)))
    header = read_wav_header(data)
    assert header.frame_bytes == frame
    assert header.seconds(len(data)) == pytest.approx(0.1)


def test_extensible_headers_name_their_true_format() -> None:
    guid = struct.pack("<H", 3) + b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
    extra = struct.pack("<HHI", 22, 32, 3) + guid
    data = riff(fmt(0xFFFE, 2, 48_000, 32, extra), chunk(b"data", bytes(800)))
    assert read_wav_header(data).tag == 3


def test_adpcm_counts_samples_not_its_byte_rate() -> None:
    extra = struct.pack("<HH", 2, 505)
    body = struct.pack("<HHIIHH", 0x11, 1, 16_000, 1, 256, 4)
    data = riff(chunk(b"fmt ", body + extra), chunk(b"data", bytes(2560)))
    assert read_wav_header(data).seconds(len(data)) == pytest.approx(5050 / 16_000, rel=0.01)
    # Without a count of its own, the byte rate is all there is.
    none = chunk(b"fmt ", struct.pack("<HHIIHHHH", 2, 1, 16_000, 8000, 256, 4, 2, 0))
    assert read_wav_header(riff(none, chunk(b"data", bytes(800)))).byte_rate == 8000


def test_chunks_before_the_samples_are_passed_over() -> None:
    data = riff(chunk(b"LIST", b"odd"), fmt(), chunk(b"bext", bytes(602)), chunk(b"data", b"1234"))
    header = read_wav_header(data)
    assert data[header.data_offset :] == b"1234"
    assert header.declared_bytes == 4


def test_what_follows_the_samples_is_not_sound() -> None:
    data = silence(1) + chunk(b"LIST", bytes(32_000))
    assert read_wav_header(data).seconds(len(data)) == 1.0


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x80000000, 0x7FFFF024])
def test_a_length_left_open_is_the_rest_of_the_file(size: int) -> None:
    data = riff(fmt(), chunk(b"data", bytes(32_000), size))
    header = read_wav_header(data)
    assert header.declared_bytes is None
    assert header.seconds(len(data)) == 1.0


def test_a_length_beyond_the_file_counts_what_is_there() -> None:
    data = riff(fmt(), chunk(b"data", bytes(32_000), 320_000))
    assert read_wav_header(data).declared_bytes == 320_000
    assert read_wav_header(data).seconds(len(data)) == 1.0


def test_past_four_gigabytes_the_size_of_the_file_decides() -> None:
    ten_hours = 36_000 * 176_400
    wrapped = riff(fmt(1, 2, 44_100), chunk(b"data", b"", ten_hours & 0xFFFFFFFF))
    assert read_wav_header(wrapped).seconds(44 + ten_hours) == pytest.approx(36_000)


@pytest.mark.parametrize("name", [b"RF64", b"BW64"])
def test_64_bit_lengths_are_read(name: bytes) -> None:
    ten_hours = 36_000 * 176_400
    ds64 = chunk(b"ds64", struct.pack("<QQQI", ten_hours + 100, ten_hours, 0, 0))
    data = riff(ds64, fmt(1, 2, 44_100), chunk(b"data", b"", 0xFFFFFFFF), name=name)
    assert read_wav_header(data).declared_bytes == ten_hours
    open_end = data.replace(struct.pack("<Q", ten_hours), bytes(8))
    assert read_wav_header(open_end).declared_bytes is None
    short = riff(ds64, fmt(), chunk(b"data", b"12"), name=name)
    assert read_wav_header(short).declared_bytes == 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut short"),
        (b"RIFF", "cut short"),
        (b"ID3\x03" + bytes(60), "not a WAV"),
        (b"RIFF\0\0\0\0AVI " + bytes(60), "not a WAV"),
        (riff(fmt()), "cut short"),
        (riff(chunk(b"data", b"1234")), "does not describe"),
        (riff(*[chunk(b"junk", b"")] * 100, fmt(), chunk(b"data", b"12")), "cut short"),
        (riff(fmt(rate=4_000_000_000), chunk(b"data", b"12")), "4000000000 Hz"),
        (riff(fmt(rate=0), chunk(b"data", b"12")), "0 Hz"),
        (riff(fmt(channels=0), chunk(b"data", b"12")), "0 channels"),
        (riff(fmt(channels=65_535), chunk(b"data", b"12")), "65535 channels"),
        (riff(fmt(bits=0), chunk(b"data", b"12")), "0 bits"),
        (riff(fmt(bits=999), chunk(b"data", b"12")), "999 bits"),
        (riff(fmt(tag=3, bits=16), chunk(b"data", b"12")), "16 bits"),
        (riff(fmt(tag=0x55, bits=0), chunk(b"data", b"12")), "byte rate of zero"),
    ],
)
def test_what_cannot_be_used_is_named(data: bytes, words: str) -> None:
    with pytest.raises(WavError, match=words):
        read_wav_header(data)


@given(st.binary(max_size=200), st.booleans(), st.integers(0, 1 << 40))
def test_no_bytes_break_the_reader(junk: bytes, has_start: bool, size_bytes: int) -> None:
    data = b"RIFF\0\0\0\0WAVE" + junk if has_start else junk
    try:
        header = read_wav_header(data)
    except WavError:
        return
    assert 0 <= header.seconds(size_bytes) <= size_bytes


@given(st.integers(0, 43), st.integers(0, 255))
def test_one_wrong_byte_in_a_header_is_survived(at: int, value: int) -> None:
    data = bytearray(silence(0.1))
    data[at] = value
    with contextlib.suppress(WavError):
        assert read_wav_header(data).seconds(len(data)) >= 0


def test_a_header_is_known_from_its_last_byte_on() -> None:
    data = riff(chunk(b"LIST", b"odd"), fmt(), chunk(b"data", b"1234"))
    known_from = read_wav_header(data).data_offset
    for count in range(len(data)):
        if count < known_from:
            with pytest.raises(WavError):
                read_wav_header(data[:count])
        else:
            assert read_wav_header(data[:count]).data_offset == known_from
