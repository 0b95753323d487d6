"""Files as people have them: each made from the same sound, with what is to be expected of it.

Promises: a file is made by ffmpeg and by changing bytes, the same in every run; its length and
where its sound begins are known from how it was made, not from any reader.
"""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.audio_files import make

#: How much of a gap and how late a start is, in seconds.
GAP_S = 8.0
LATE_S = 6.0


@dataclass(frozen=True, slots=True)
class FileCase:
    """One kind of file.

    Attributes:
        what: In words, for docs/formats.md.
        make: Makes it in a folder, of sound that lasts so many seconds.
        length_s: Its true length, for so many seconds of sound.
        starts_s: Where its sound begins.
        hole_s: How much of it is no sound, in its midst.
        slack_s: How much of it may be missing, where frames or pages are cut.
        outcome: "whole"; "damaged", which is transcribed with a warning; or "refused".
    """

    what: str
    make: Callable[[Path, float], bytes]
    length_s: Callable[[float], float] = lambda seconds: seconds
    starts_s: float = 0.0
    hole_s: float = 0.0
    slack_s: float = 0.25
    outcome: str = "whole"

    def sound_s(self, seconds: float) -> float:
        """Return how much of its length is sound, and no hole in it or pause before it."""
        return self.length_s(seconds) - self.starts_s - self.hole_s


def encoded(extension: str, *options: str, rate_hz: int = 16_000) -> Callable[[Path, float], bytes]:
    """Return what makes a file with ffmpeg's options."""

    def made(folder: Path, seconds: float) -> bytes:
        name = f"{abs(hash((extension, options, rate_hz)))}_{seconds:g}.{extension}"
        return make(folder / name, seconds, list(options), rate_hz).read_bytes()

    return made


def patched(data: bytes, at: int, value: bytes) -> bytes:
    """Return bytes with others in their midst."""
    assert at > 0
    return data[:at] + value + data[at + len(value) :]


WAV = encoded("wav", "-c:a", "pcm_s16le")
MP3 = encoded("mp3", "-c:a", "libmp3lame", "-b:a", "64k")
VBR = encoded("mp3", "-c:a", "libmp3lame", "-q:a", "2", "-ar", "44100", "-ac", "2")
OPUS = encoded("ogg", "-c:a", "libopus", "-b:a", "24k")
LIVE = encoded("webm", "-c:a", "libopus", "-live", "1")
WEBM = encoded("webm", "-c:a", "libopus")
M4A = encoded("m4a", "-c:a", "aac", "-ar", "44100")
FRONT = encoded("m4a", "-c:a", "aac", "-ar", "44100", "-movflags", "+faststart")
_FRAGMENTS = ("-movflags", "+frag_keyframe+empty_moov+default_base_moof")
FRAGMENTED = encoded("mp4", "-ar", "48000", "-c:a", "aac", *_FRAGMENTS, "-frag_duration", "1000000")


def _chromium(milliseconds: Callable[[float], float]) -> Callable[[Path, float], bytes]:
    """Return what makes an MP4 as Chromium writes it: the track's length in the movie's units."""

    def made(folder: Path, seconds: float) -> bytes:
        data = FRAGMENTED(folder, seconds)
        units = struct.pack(">I", int(milliseconds(seconds)))
        return patched(data, data.find(b"mdhd") + 20, units)

    return made


def _wav_size(size: Callable[[int], int]) -> Callable[[Path, float], bytes]:
    """Return what makes a WAV whose header tells another size, by the true one."""

    def made(folder: Path, seconds: float) -> bytes:
        data = WAV(folder, seconds)
        at = data.find(b"data") + 4
        return patched(data, at, struct.pack("<I", size(len(data) - at - 4)))

    return made


def _short_alaw(folder: Path, seconds: float) -> bytes:
    data = encoded("wav", "-c:a", "pcm_alaw", "-ar", "8000")(folder, seconds)
    return patched(data, data.find(b"data") + 4, struct.pack("<I", 8000))


def _late_samples(folder: Path, seconds: float) -> bytes:
    data = WAV(folder, seconds)
    return data[:12] + b"id3 " + struct.pack("<I", 600_000) + bytes(600_000) + data[12:]


def _covered(size: int) -> Callable[[Path, float], bytes]:
    """Return what makes an MP3 behind a picture."""

    def made(folder: Path, seconds: float) -> bytes:
        sound = VBR(folder, seconds)
        sound = sound[45:] if sound.startswith(b"ID3") else sound
        body = b"\0image/jpeg\0\3\0\xff\xd8" + random.Random(1).randbytes(size)
        frame = b"APIC" + struct.pack(">IH", len(body), 0) + body
        length = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
        return b"ID3\3\0\0" + length + frame + sound

    return made


def _xing(at: int, value: bytes) -> Callable[[Path, float], bytes]:
    def made(folder: Path, seconds: float) -> bytes:
        data = VBR(folder, seconds)
        return patched(data, max(data.find(b"Xing"), data.find(b"Info")) + at, value)

    return made


def _twice(of: Callable[[Path, float], bytes]) -> Callable[[Path, float], bytes]:
    return lambda folder, seconds: of(folder, seconds) * 2


def _two_serials(folder: Path, seconds: float) -> bytes:
    other = encoded("ogg", "-c:a", "libopus", "-b:a", "24k", "-serial_offset", "77")
    return OPUS(folder, seconds) + other(folder, seconds)


def _middle_of_ogg(folder: Path, seconds: float) -> bytes:
    data = encoded("ogg", "-c:a", "libopus", "-page_duration", "500000")(folder, seconds + 20)
    pages = [b"OggS" + page for page in data.split(b"OggS")[1:]]
    kept = [p for p in pages[2:] if struct.unpack_from("<q", p, 6)[0] > 20 * 48_000]
    return b"".join(pages[:2] + kept)


def _middle_of_ts(folder: Path, seconds: float) -> bytes:
    data = encoded("ts", "-c:a", "aac", "-b:a", "64k")(folder, 2 * seconds)
    start = len(data) // 2 // 188 * 188
    # Its tables come again and again: a receiver that is switched on late understands it.
    return data[start:]


def _zero_duration(value: float) -> Callable[[Path, float], bytes]:
    def made(folder: Path, seconds: float) -> bytes:
        data = WEBM(folder, seconds)
        return patched(data, data.find(b"\x44\x89\x88") + 3, struct.pack(">d", value))

    return made


def _gap(folder: Path, seconds: float) -> bytes:
    half = seconds / 2
    for name in "ab":
        make(folder / f"gap_{name}.webm", half, ["-c:a", "libopus"])
    lines = ["ffconcat version 1.0", "file gap_a.webm", f"duration {half + GAP_S}"]
    (folder / "gap.txt").write_text("\n".join([*lines, "file gap_b.webm"]))
    path = folder / f"gap_{seconds:g}.webm"
    command = ["ffmpeg", "-v", "error", "-y", "-f", "concat", "-safe", "0"]
    subprocess.run([*command, "-i", str(folder / "gap.txt"), "-c", "copy", str(path)], check=True)
    return path.read_bytes()


def _late(extension: str, *options: str) -> Callable[[Path, float], bytes]:
    """Return what makes a file whose sound begins late; of a film if there are pictures."""

    def made(folder: Path, seconds: float) -> bytes:
        source = folder / f"late_{seconds:g}.wav"
        source.write_bytes(WAV(folder, seconds))
        path = folder / f"late_{abs(hash(options))}_{seconds:g}.{extension}"
        inputs = []
        if "-c:v" in options:
            inputs = ["-f", "lavfi", "-t", f"{seconds + LATE_S}", "-i", "color=s=64x64:r=5"]
        inputs += ["-itsoffset", f"{LATE_S}", "-i", str(source)]
        command = ["ffmpeg", "-v", "error", "-y", *inputs, *options, str(path)]
        subprocess.run(command, check=True)
        return path.read_bytes()

    return made


def _two_tracks(folder: Path, seconds: float) -> bytes:
    """Two tracks of different lengths; the second, longer one is the default."""
    for name, length_s in (("one", seconds / 2), ("two", seconds)):
        make(folder / f"{name}.wav", length_s, ["-c:a", "pcm_s16le"])
    path = folder / f"tracks_{seconds:g}.mkv"
    command = ["ffmpeg", "-v", "error", "-y"]
    command += ["-i", str(folder / "one.wav"), "-i", str(folder / "two.wav")]
    options = ["-map", "0", "-map", "1", "-c:a", "libopus"]
    options += ["-disposition:a:0", "0", "-disposition:a:1", "default"]
    subprocess.run([*command, *options, str(path)], check=True)
    return path.read_bytes()


def _cut(of: Callable[[Path, float], bytes]) -> Callable[[Path, float], bytes]:
    """Return what makes two thirds of a file."""

    def made(folder: Path, seconds: float) -> bytes:
        data = of(folder, seconds)
        return data[: len(data) * 2 // 3]

    return made


def _two_thirds(seconds: float) -> float:
    return seconds * 2 / 3


def _double(seconds: float) -> float:
    return 2 * seconds


def _late_length(seconds: float) -> float:
    return seconds + LATE_S


_PICTURES = ("-c:v", "mpeg4", "-c:a", "aac")

CASES: dict[str, FileCase] = {
    "chromium_mp4": FileCase(
        "MP4 of Chromium's recorder: the length in other units than the track's",
        _chromium(lambda seconds: 1000 * seconds),
    ),
    "chromium_mp4_timeslice": FileCase(
        "the same with a timeslice: the first fragment's length", _chromium(lambda _: 1041)
    ),
    "fragmented_mp4": FileCase("fragmented MP4 without any length", FRAGMENTED),
    "webm_live": FileCase("WebM without Duration, as browsers record it", LIVE),
    "webm_zero": FileCase("WebM with a Duration of zero", _zero_duration(0.0)),
    "webm_wrong": FileCase("WebM with a Duration that is too short", _zero_duration(1500.0)),
    "aac": FileCase("bare AAC (ADTS)", encoded("aac", "-c:a", "aac", "-ar", "44100")),
    "mp3_bare": FileCase(
        "MP3 without a Xing header",
        encoded("mp3", "-c:a", "libmp3lame", "-q:a", "4", "-write_xing", "0"),
    ),
    "mp3_slow": FileCase(
        "MP3 of 8 kbit/s", encoded("mp3", "-c:a", "libmp3lame", "-b:a", "8k", "-ar", "8000")
    ),
    "mp3_no_counts": FileCase("MP3 whose Xing header counts no frames", _xing(8, bytes(4))),
    "mp3_no_flags": FileCase("MP3 whose Xing header has no counts", _xing(4, bytes(4))),
    "mp3_cover": FileCase("MP3 behind a picture of 40 KB", _covered(40_000)),
    "mp3_large_cover": FileCase("MP3 behind a picture of 1.3 MB", _covered(1_300_000)),
    "mp3_joined": FileCase("MP3 files joined", _twice(MP3), _double),
    "ogg_joined": FileCase("Ogg files joined, of one serial", _twice(OPUS), _double),
    "ogg_joined_serials": FileCase("Ogg files joined, of two serials", _two_serials, _double),
    "ogg_middle": FileCase("Ogg captured from the middle of a stream", _middle_of_ogg),
    "ts_middle": FileCase(
        "MPEG-TS captured from the middle of a stream", _middle_of_ts, slack_s=0.65
    ),
    "wav_joined": FileCase("WAV files joined", _twice(WAV), _double),
    "wav_zero": FileCase("WAV of size 0", _wav_size(lambda _: 0)),
    "wav_7fffefdc": FileCase("WAV of size 0x7FFFEFDC", _wav_size(lambda _: 0x7FFFEFDC)),
    "wav_ffffffff": FileCase("WAV of size 0xFFFFFFFF", _wav_size(lambda _: 0xFFFFFFFF)),
    "wav_told_short": FileCase(
        "WAV whose header tells of a part", _wav_size(lambda size: size // 4 // 2 * 2),
        outcome="damaged",
    ),
    "wav_told_long": FileCase(
        "WAV whose header tells of more", _wav_size(lambda size: 3 * size), outcome="damaged"
    ),
    "wav_alaw_told_short": FileCase(
        "A-law WAV whose header tells of a part", _short_alaw, outcome="damaged"
    ),
    "wav_late_samples": FileCase("WAV with 600 KB before its samples", _late_samples),
    "wav_adpcm": FileCase("WAV with IMA ADPCM", encoded("wav", "-c:a", "adpcm_ima_wav")),
    "wav_mp3": FileCase(
        "WAV with MP3", encoded("wav", "-c:a", "libmp3lame", "-b:a", "64k", "-f", "wav")
    ),
    "mov_8_channels": FileCase(
        "MOV with eight channels of PCM",
        encoded("mov", "-c:a", "pcm_s16le", "-ac", "8", "-ar", "8000"),
    ),
    "caf_8_channels": FileCase(
        "CAF with eight channels of PCM",
        encoded("caf", "-c:a", "pcm_s16be", "-ac", "8", "-ar", "8000"),
    ),
    "mxf": FileCase(
        "MXF with pictures",
        encoded("mxf", "-c:v", "mpeg2video", "-r", "25", "-ar", "48000", "-c:a", "pcm_s16le"),
    ),
    "voc": FileCase("VOC", encoded("voc", "-c:a", "pcm_u8", "-ar", "8000")),
    "nut": FileCase("NUT", encoded("nut", "-c:a", "libopus")),
    "au": FileCase("AU", encoded("au", "-c:a", "pcm_mulaw", "-ar", "8000")),
    "w64": FileCase("Wave64", encoded("w64", "-c:a", "pcm_s16le")),
    "wma": FileCase("ASF with WMA", encoded("wma", "-c:a", "wmav2", "-ar", "44100")),
    "flv": FileCase("FLV with AAC", encoded("flv", "-c:a", "aac", "-ar", "44100")),
    "avi": FileCase("AVI with MP3", encoded("avi", "-c:a", "libmp3lame", "-c:v", "mpeg4")),
    "tracks": FileCase("Matroska with two tracks, the second the default", _two_tracks),
    "gap": FileCase(
        "WebM with a hole in its middle", _gap, lambda seconds: seconds + GAP_S, hole_s=GAP_S
    ),
    "late_film": FileCase(
        "MP4 film whose sound begins later", _late("mp4", *_PICTURES), _late_length, LATE_S
    ),
    "late_m4a": FileCase(
        "M4A whose edit list begins with a pause", _late("m4a", "-c:a", "aac"), _late_length, LATE_S
    ),
    "late_mka": FileCase(
        "Matroska whose sound begins later", _late("mka", "-c:a", "libopus"), _late_length, LATE_S
    ),
    "late_ts": FileCase(
        "MPEG-TS film whose sound begins later",
        _late("ts", "-c:v", "mpeg2video", "-c:a", "aac"), _late_length, LATE_S,
    ),
    "cut_wav": FileCase("WAV, cut short", _cut(WAV), _two_thirds, outcome="damaged"),
    "cut_mp3": FileCase("MP3, cut short", _cut(MP3), _two_thirds, outcome="damaged"),
    "cut_flac": FileCase(
        "FLAC, cut short", _cut(encoded("flac", "-c:a", "flac")), _two_thirds, outcome="damaged"
    ),
    "cut_ogg": FileCase(
        "Ogg, cut short",
        _cut(encoded("ogg", "-c:a", "libopus", "-page_duration", "200000")),
        _two_thirds, outcome="damaged",
    ),
    "cut_webm": FileCase("WebM, cut short", _cut(WEBM), _two_thirds, outcome="damaged"),
    "cut_m4a": FileCase(
        "M4A with its index first, cut short", _cut(FRONT), _two_thirds, outcome="damaged"
    ),
    "cut_fragmented": FileCase(
        "fragmented MP4, cut short", _cut(FRAGMENTED), _two_thirds, outcome="damaged"
    ),
    "cut_aiff": FileCase(
        "AIFF, cut short", _cut(encoded("aiff", "-c:a", "pcm_s16be")), _two_thirds,
        outcome="damaged",
    ),
    "cut_index": FileCase(
        "M4A with its index last, cut short", _cut(M4A), _two_thirds, outcome="refused"
    ),
}  # fmt: skip
