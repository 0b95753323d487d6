import os
import struct
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from tests.audio.decoding.dref import referring
from tests.audio_files import KINDS, audio_folder, make, make_kind, piped
from tests.file_cases import CASES, encoded

from vllm_router.audio.decoding.samples import ByteRange, NotAudio, read_samples
from vllm_router.audio.wav import pcm16_wav, silence

__all__ = ["audio_folder"]

DAY_S = 86_400.0
OPUS_PAGES = encoded("ogg", "-c:a", "libopus", "-page_duration", "500000")


def samples_of(
    path: Path, max_audio_s: float = DAY_S, notes: list[str] | None = None
) -> npt.NDArray[np.int16]:
    said = [] if notes is None else notes
    fd = os.open(path, os.O_RDONLY)
    try:
        file = ByteRange(fd, 0, path.stat().st_size)
        return np.frombuffer(b"".join(read_samples(file, max_audio_s, note=said.append)), "<i2")
    finally:
        os.close(fd)


def by_ffmpeg(path: Path) -> npt.NDArray[np.int16]:
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "s16le", "-ac", "1", "-ar", "16000"]
    done = subprocess.run([*command, "pipe:1"], check=True, stdout=subprocess.PIPE)
    return np.frombuffer(done.stdout, "<i2")


def write(folder: Path, data: bytes) -> Path:
    path = folder / "upload"
    path.write_bytes(data)
    return path


def refusal(path: Path, max_audio_s: float = DAY_S) -> str:
    with pytest.raises(NotAudio) as caught:
        samples_of(path, max_audio_s)
    words = str(caught.value)
    assert words.endswith((".", ")."))
    return words


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_sounds_as_ffmpeg_has_it(kind: str, audio_folder: Path) -> None:
    path = make_kind(audio_folder, kind, 3.3)
    ours, theirs = samples_of(path), by_ffmpeg(path)
    assert len(ours) == pytest.approx(len(theirs), abs=1700)
    # Versions of ffmpeg disagree by milliseconds on where some codecs begin.
    likeness = max(
        np.corrcoef(ours[lag : lag + 40_000], theirs[200:40_200])[0, 1] for lag in range(400)
    )
    # Surround is mixed by other weights; all else is the same signal.
    assert likeness > (0.9 if "surround" in kind else 0.99)


def test_eight_channels_of_pcm_in_caf_are_decoded(audio_folder: Path) -> None:
    options = ["-c:a", "pcm_s16be", "-ac", "8", "-ar", "8000"]
    path = make(audio_folder / "surround_71.caf", 3.3, options)
    assert len(samples_of(path)) == pytest.approx(3.3 * 16_000, abs=1700)


@pytest.mark.parametrize("container", ["wav", "flac", "webm", "ogg"])
def test_what_came_through_a_pipe_is_whole(container: str, audio_folder: Path) -> None:
    path = piped(audio_folder / f"samples_{container}", container, 3, [])
    assert len(samples_of(path)) == pytest.approx(48_000, abs=1000)


@pytest.mark.parametrize("rate_hz", [4000, 11_025, 44_100, 384_000])
def test_any_sample_rate_becomes_16_khz(rate_hz: int, tmp_path: Path) -> None:
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(2 * rate_hz) / rate_hz)).astype("<i2")
    heard = samples_of(write(tmp_path, pcm16_wav(tone.tobytes(), rate_hz))).astype(float)
    assert len(heard) == pytest.approx(32_000, abs=60)
    spectrum = np.abs(np.fft.rfft(heard[:32_000], 32_000))
    assert abs(int(np.argmax(spectrum)) - 880) <= 1
    assert heard[4000:28_000].std() == pytest.approx(8000 / 2**0.5, rel=0.02)


def test_16_khz_samples_are_passed_on_as_they_are(tmp_path: Path) -> None:
    pcm = np.random.default_rng(0).integers(-32768, 32767, 700_001).astype("<i2").tobytes()
    assert samples_of(write(tmp_path, pcm16_wav(pcm))).tobytes() == pcm


def test_stereo_is_mixed(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "s.wav"), "wb") as file:
        file.setparams((2, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.tile(np.array([1000, 3000], "<i2"), 16_000).tobytes())
    assert samples_of(tmp_path / "s.wav")[8000] == pytest.approx(2000, abs=2)


def test_floats_that_are_no_numbers_do_no_harm(tmp_path: Path) -> None:
    values = np.zeros(16_000, "<f4")
    values[100:103] = np.nan, np.inf, -np.inf
    head = struct.pack("<HHIIHH", 3, 1, 16_000, 64_000, 4, 32)
    body = b"WAVEfmt \x10\0\0\0" + head + b"data" + struct.pack("<I", 64_000) + values.tobytes()
    heard = samples_of(write(tmp_path, b"RIFF" + struct.pack("<I", len(body)) + body))
    assert heard[100:103].tolist() == [0, 32767, -32768]


def test_samples_behind_a_large_picture_are_found(tmp_path: Path) -> None:
    wav = silence(1)
    chunk = b"id3 " + struct.pack("<I", 600_000) + bytes(600_000)
    assert len(samples_of(write(tmp_path, wav[:12] + chunk + wav[12:]))) == 16_000
    far = b"id3 " + struct.pack("<I", 1 << 30)
    assert "cut short" in refusal(write(tmp_path, wav[:12] + far + bytes(300_000)))


def test_tags_that_are_not_utf_8_do_no_harm(tmp_path: Path) -> None:
    # Latin-1, as old programs write it.
    path = make(tmp_path / "tagged.flac", 1, ["-metadata", "title=M\udcfcller"])
    assert b"itle=M\xfcller" in path.read_bytes()
    assert len(samples_of(path)) == 16_000


def test_a_format_that_changes_on_the_way_is_followed(tmp_path: Path) -> None:
    parts = [
        make(tmp_path / f"{rate}.mp3", 1.0, ["-ar", str(rate), "-write_xing", "0"]).read_bytes()
        for rate in (44_100, 22_050)
    ]
    heard = samples_of(write(tmp_path, b"".join(parts)))
    assert len(heard) == pytest.approx(32_000, abs=6000)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (silence(1)[:44], "no samples"),
        (b"hello, this is not audio at all\n" * 99, "not audio"),
        (bytes(100_000), "not audio"),
        (np.random.default_rng(5).bytes(100_000), ""),
        (b"PK\x03\x04" + bytes(5000), "not audio"),
        (b"OggS" + bytes(500), "not audio"),
        (
            b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n",
            "playlist",
        ),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "playlist"),
    ],
    ids=["empty", "header", "text", "zeros", "noise", "zip", "ogg", "playlist", "concat"],
)
def test_what_is_not_audio_is_refused_in_words(data: bytes, words: str, tmp_path: Path) -> None:
    assert words in refusal(write(tmp_path, data))


# Their index is at their end: without it, nobody knows where the sound lies.
INDEX_LAST = {"m4a", "alac", "mov_pcm", "mov_surround_71", "video_mp4"}
# Nothing in these says how long they ought to be.
ENDLESS = {"mp3_cbr_bare", "mp3_cbr_tagged", "mp2", "aac_adts"}


@pytest.mark.parametrize("kind", sorted(set(KINDS) - INDEX_LAST))
def test_half_a_file_is_decoded_as_far_as_it_goes(
    kind: str, audio_folder: Path, tmp_path: Path
) -> None:
    data = make_kind(audio_folder, kind, 3.3).read_bytes()
    path, notes = write(tmp_path, data[: len(data) // 2]), list[str]()
    heard = samples_of(path, notes=notes)
    theirs = by_ffmpeg(path)
    # Up to a frame or a page, which is most of what a second of some codecs takes.
    assert len(heard) == pytest.approx(len(theirs), abs=4000)
    assert 0.4 * 16_000 < len(heard) < 3.2 * 16_000
    assert kind in ENDLESS or any("cut short" in note for note in notes)


@pytest.mark.parametrize("kind", sorted(INDEX_LAST))
def test_half_a_file_without_its_index_is_refused(
    kind: str, audio_folder: Path, tmp_path: Path
) -> None:
    data = make_kind(audio_folder, kind, 3.3).read_bytes()
    assert "cut short" in refusal(write(tmp_path, data[: len(data) // 2]))


@pytest.mark.parametrize("name", CASES)
def test_a_files_sound_is_where_its_clock_has_it(
    name: str, audio_folder: Path, tmp_path: Path
) -> None:
    case = CASES[name]
    path, notes = write(tmp_path, case.make(audio_folder, 7.5)), list[str]()
    if case.outcome == "refused":
        assert "cut short" in refusal(path)
        return
    heard = samples_of(path, notes=notes)
    assert bool(notes) == (case.outcome == "damaged")
    slack = 0.65 if case.outcome == "damaged" else case.slack_s
    assert len(heard) / 16_000 == pytest.approx(case.length_s(7.5), abs=slack)
    # The sound is loud at first; before it there is nothing, and none of a hole is loud.
    loud = np.abs(heard[: len(heard) // 1600 * 1600].reshape(-1, 1600).astype(float)).mean(axis=1)
    first_s = int(np.argmax(loud > 300)) / 10
    assert case.starts_s - 0.15 <= first_s <= case.starts_s + 2.3
    assert not heard[: int((case.starts_s - 0.3) * 16_000) if case.starts_s else 0].any()
    still_s = (heard == 0).sum() / 16_000
    assert still_s >= case.starts_s + case.hole_s - 0.5


def test_a_hole_at_any_place_stays_as_long_as_it_is(audio_folder: Path, tmp_path: Path) -> None:
    pages = OPUS_PAGES(audio_folder, 20.0).split(b"OggS")[1:]
    for first, past in ((6, 10), (10, 30), (20, 24)):
        kept = pages[:first] + pages[past:]
        heard = samples_of(write(tmp_path, b"".join(b"OggS" + page for page in kept)))
        assert len(heard) / 16_000 == pytest.approx(20.0, abs=0.3)
        still_s = (heard == 0).sum() / 16_000
        assert still_s == pytest.approx((past - first) * 0.5, abs=0.6)


def test_samples_in_another_file_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.pcm"
    secret.write_bytes(np.full(50_000, 12_345, "<i2").tobytes())
    plain = make(tmp_path / "a.mov", 1.0, ["-c:a", "pcm_s16le"]).read_bytes()
    path = write(tmp_path, referring(plain, str(secret).encode()))
    # FFmpeg would open it, if it were let.
    options = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(path), format="mov", container_options=options) as container:
        (frame, *_) = container.decode(audio=0)
        assert (frame.to_ndarray() == 12_345).all()
    assert refusal(path)


def test_a_rate_of_four_gigahertz_is_refused(tmp_path: Path) -> None:
    data = bytearray(silence(1))
    data[24:28] = (4_000_000_000).to_bytes(4, "little")
    assert "4000000000 Hz" in refusal(write(tmp_path, bytes(data)))


def test_a_film_without_sound_is_refused(tmp_path: Path) -> None:
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=64x64:rate=5"]
    path = tmp_path / "film.mp4"
    subprocess.run([*command, "-t", "2", "-c:v", "mpeg4", str(path)], check=True)
    assert "no audio stream" in refusal(path)


def test_audio_longer_than_allowed_is_refused_before_decoding(audio_folder: Path) -> None:
    path = make_kind(audio_folder, "opus", 50.0)
    assert refusal(path, 45.0) == "The audio is longer than the 45 s that are accepted."
    assert len(samples_of(path, 50.0)) == 800_000


def test_audio_longer_than_it_says_is_refused_on_the_way(audio_folder: Path) -> None:
    path = piped(audio_folder / "long_piped", "flac", 20, ["-c:a", "flac"])
    assert "longer than the 10 s" in refusal(path, 10.0)


def test_a_bomb_is_refused_however_it_is_packed(tmp_path: Path) -> None:
    # Opus packets of 120 ms in three bytes; a position that lies about their sum.
    def page(packets: list[bytes], position: int, number: int, flags: int = 0) -> bytes:
        body = b"".join(packets)
        head = struct.pack("<4sBBqIII", b"OggS", 0, flags, position, 1, number, 0)
        head += bytes([len(packets), *(len(p) for p in packets)])
        crc = 0
        for byte in head + body:
            crc ^= byte << 24
            for _ in range(8):
                crc = (crc << 1 ^ (0x04C11DB7 if crc & 1 << 31 else 0)) & 0xFFFFFFFF
        return head[:22] + struct.pack("<I", crc) + head[26:] + body

    start = page([b"OpusHead\x01\x01" + struct.pack("<HIHB", 0, 48_000, 0, 0)], 0, 0, 2)
    start += page([b"OpusTags" + struct.pack("<II", 0, 0)], 0, 1)
    sound = page([b"\xfb\x06"] * 255, 255 * 5760, 2)
    honest = start + sound
    assert len(samples_of(write(tmp_path, honest))) == 255 * 1920
    lying = honest + page([b"\xfb\x06"] * 255, 48_000 * 10**6, 3, 4)
    notes: list[str] = []
    assert len(samples_of(write(tmp_path, lying), notes=notes)) == 2 * 255 * 1920
    assert "impossible" in notes[0]
    hours = start + sound * 300
    assert "decompression bomb" in refusal(write(tmp_path, hours))


def test_a_few_damaged_packets_are_passed_over(audio_folder: Path, tmp_path: Path) -> None:
    data = bytearray(make_kind(audio_folder, "aac_adts", 50.0).read_bytes())
    at = len(data) // 2
    data[at : at + 300] = bytes(300)
    assert len(samples_of(write(tmp_path, bytes(data)))) == pytest.approx(800_000, rel=0.02)


def test_a_file_of_damaged_packets_is_refused(audio_folder: Path, tmp_path: Path) -> None:
    data = bytearray(make_kind(audio_folder, "m4a", 3.3).read_bytes())
    at = data.find(b"mdat") + 4
    end = data.rfind(b"moov") - 4
    data[at + 2000 : end] = b"\xff" * (end - at - 2000)
    assert "damaged" in refusal(write(tmp_path, bytes(data)))


def test_a_stretch_of_a_larger_file_is_a_file(tmp_path: Path) -> None:
    wav = pcm16_wav(bytes(range(200)))
    path = write(tmp_path, b"before" + wav + b"behind")
    fd = os.open(path, os.O_RDONLY)
    try:
        file = ByteRange(fd, 6, len(wav))
        assert b"".join(read_samples(file, 10)) == bytes(range(200))
        assert (file.seek(0, os.SEEK_END), file.read(), file.tell()) == (244, b"", 244)
        assert (file.seek(-4, os.SEEK_CUR), file.read(-1)) == (240, bytes(range(196, 200)))
        assert (file.seek(-9), file.read(4), file.peek(4, 99)[:4]) == (0, b"RIFF", wav[4:8])
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
    finally:
        os.close(fd)


def test_a_file_that_shrinks_while_it_is_read_ends(tmp_path: Path) -> None:
    path = write(tmp_path, silence(60))
    size_bytes = path.stat().st_size
    fd = os.open(path, os.O_RDONLY)
    try:
        blocks: Iterator[bytes] = read_samples(ByteRange(fd, 0, size_bytes), DAY_S)
        next(blocks)
        os.truncate(path, 1000)
        assert list(blocks) == []
    finally:
        os.close(fd)


def test_the_decoders_are_all_there() -> None:
    for codec in (
        "mp3float",
        "flac",
        "opus",
        "vorbis",
        "aac",
        "alac",
        "pcm_alaw",
        "amrnb",
        "wmav2",
    ):
        assert av.codec.Codec(codec, "r").name == codec
