"""Files that few people have and somebody always does: further kinds than those of `file_cases`.

Promises: a file is made by ffmpeg and by changing bytes, the same in every run; its length is known
from how it was made.
"""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.file_cases import FRAGMENTED, M4A, MP3, OPUS, WAV, WEBM, encoded

LENGTH_S = 7.5
Make = Callable[[Path], bytes]


@dataclass(frozen=True, slots=True)
class OddFile:
    """One file.

    Attributes:
        make: Makes it in a folder, of `LENGTH_S` of sound.
        length_s: Its true length.
        is_damaged: Whether a warning is due.
        name: What it is called, in disagreement with what it is.
    """

    make: Make
    length_s: float = LENGTH_S
    is_damaged: bool = False
    name: str = "a.wav"


def of(extension: str, *options: str, rate_hz: int = 16_000) -> Make:
    """Return what makes a file with ffmpeg's options."""
    return lambda folder: encoded(extension, *options, rate_hz=rate_hz)(folder, LENGTH_S)


def made(maker: Callable[[Path, float], bytes]) -> Make:
    """Return what makes a file of `file_cases` at this length."""
    return lambda folder: maker(folder, LENGTH_S)


def with_bytes(make: Make, near: bytes, after: int, value: bytes) -> Make:
    """Return what makes a file with other bytes so far behind the first of a kind."""

    def patched(folder: Path) -> bytes:
        data = make(folder)
        at = data.index(near) + after
        return data[:at] + value + data[at + len(value) :]

    return patched


def edited(make: Make, edit: Callable[[bytes], bytes]) -> Make:
    """Return what makes a file that is changed as a whole."""
    return lambda folder: edit(make(folder))


def cut(make: Make, share: float) -> Make:
    """Return what makes the first part of a file."""
    return edited(make, lambda data: data[: int(len(data) * share)])


def _noise(count: int) -> bytes:
    return random.Random(count).randbytes(count)


def _amr(magic: bytes, toc: int, count: int, pause: int, *, pauses: bool) -> Make:
    """Return what makes AMR frame by frame, with comfort noise where nobody speaks."""

    def frames(_: Path) -> bytes:
        rng = random.Random(4)
        out = [magic]
        for at in range(round(LENGTH_S * 50)):
            is_pause = pauses and at % 100 >= 40
            if not is_pause:
                out.append(bytes([toc]) + rng.randbytes(count))
            elif at % 8 == 0:
                out.append(bytes([pause]) + bytes(5))
            else:
                out.append(b"\x7c")
        return b"".join(out)

    return frames


def _film(extension: str, *options: str) -> Make:
    def film(folder: Path) -> bytes:
        path = folder / f"film_{abs(hash(options))}.{extension}"
        if not path.exists():
            source = folder / "film.wav"
            source.write_bytes(WAV(folder, LENGTH_S))
            picture = folder / "picture.png"
            command = ["ffmpeg", "-nostdin", "-v", "error", "-y"]
            shot = ["-f", "lavfi", "-i", "testsrc=s=600x600", "-frames:v", "1", str(picture)]
            subprocess.run([*command, *shot], check=True)
            inputs = ["-i", str(source), "-i", str(picture), "-map", "0", "-map", "1"]
            subprocess.run([*command, *inputs, *options, str(path)], check=True)
        return path.read_bytes()

    return film


def _two_tracks(extension: str, *options: str) -> Make:
    def tracks(folder: Path) -> bytes:
        source, path = folder / "tracks.wav", folder / f"tracks.{extension}"
        source.write_bytes(WAV(folder, LENGTH_S))
        tone = ["-f", "lavfi", "-t", str(LENGTH_S), "-i", "sine=300"]
        command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *tone, "-i", str(source)]
        subprocess.run([*command, "-map", "0", "-map", "1", *options, str(path)], check=True)
        return path.read_bytes()

    return tracks


_TS = of("ts", "-c:a", "aac", "-b:a", "64k")
_RF64 = of("wav", "-c:a", "pcm_s16le", "-rf64", "always")
_W64 = of("w64", "-c:a", "pcm_s16le")
_W64_DATA = b"data\xf3\xac"
_AU = of("au", "-c:a", "pcm_s16be")
_CAF = of("caf", "-c:a", "pcm_s16le")
_FLAC = of("flac", "-c:a", "flac")
_AIFF = of("aiff", "-c:a", "pcm_s16be")
_FRONT = of("m4a", "-c:a", "aac", "-movflags", "+faststart")
_PICTURE = ("-c:v", "copy", "-disposition:v", "attached_pic")
_ID3_CHUNK = b"id3 " + struct.pack("<I", 2000) + bytes(2000)
_DURATION = b"\x44\x89\x88"

ODD_FILES: dict[str, OddFile] = {
    "amr": OddFile(_amr(b"#!AMR\n", 0x3C, 31, 0x44, pauses=False)),
    "amr with pauses": OddFile(_amr(b"#!AMR\n", 0x3C, 31, 0x44, pauses=True)),
    "amr-wb with pauses": OddFile(_amr(b"#!AMR-WB\n", 0x44, 60, 0x4C, pauses=True)),
    "amr cut": OddFile(
        edited(_amr(b"#!AMR\n", 0x3C, 31, 0x44, pauses=False), lambda d: d[:-13]), is_damaged=True
    ),
    "3gp": OddFile(of("3gp", "-c:a", "aac")),
    "ac3": OddFile(of("ac3", "-c:a", "ac3", "-ar", "48000")),
    "eac3": OddFile(of("eac3", "-c:a", "eac3", "-ar", "48000")),
    "aac in latm": OddFile(of("latm", "-c:a", "aac")),
    "aac joined": OddFile(edited(of("aac", "-c:a", "aac"), lambda d: 2 * d), 2 * LENGTH_S),
    "opus in mp4": OddFile(of("mp4", "-c:a", "libopus")),
    "opus in caf": OddFile(of("caf", "-c:a", "libopus", "-ar", "48000")),
    "opus in ts": OddFile(of("ts", "-c:a", "libopus")),
    "flac in mp4": OddFile(of("mp4", "-c:a", "flac", "-strict", "-2")),
    "alac in caf": OddFile(of("caf", "-c:a", "alac")),
    "wma 1": OddFile(of("wma", "-c:a", "wmav1", "-ar", "44100")),
    "wav with g726": OddFile(of("wav", "-c:a", "adpcm_g726", "-ar", "8000", "-b:a", "32k")),
    "wav with gsm": OddFile(of("wav", "-c:a", "libgsm_ms", "-ar", "8000")),
    "wav with yamaha's adpcm": OddFile(of("wav", "-c:a", "adpcm_yamaha")),
    "wav with ac3": OddFile(of("wav", "-c:a", "ac3", "-ar", "48000")),
    "wav of six channels": OddFile(of("wav", "-c:a", "pcm_s24le", "-ac", "6", "-ar", "48000")),
    "rf64": OddFile(_RF64),
    "rf64 of huge size": OddFile(
        with_bytes(_RF64, b"ds64", 8, struct.pack("<QQ", 2**62, 2**62)), is_damaged=True
    ),
    "rf64 of no size yet": OddFile(with_bytes(_RF64, b"ds64", 8, bytes(24))),
    "w64 of floats": OddFile(of("w64", "-c:a", "pcm_f32le")),
    "w64 of huge size": OddFile(with_bytes(_W64, _W64_DATA, 16, struct.pack("<Q", 2**60))),
    "w64 of no size yet": OddFile(with_bytes(_W64, _W64_DATA, 16, struct.pack("<Q", 24))),
    "w64 of size zero": OddFile(with_bytes(_W64, _W64_DATA, 16, bytes(8))),
    "au of unknown size": OddFile(with_bytes(_AU, b".snd", 8, b"\xff" * 4)),
    "au of size zero": OddFile(with_bytes(_AU, b".snd", 8, bytes(4))),
    "caf of unknown size": OddFile(with_bytes(_CAF, b"data", 4, b"\xff" * 8)),
    "caf of size zero": OddFile(with_bytes(_CAF, b"data", 4, bytes(8))),
    "aiff of no frames": OddFile(with_bytes(_AIFF, b"COMM", 10, bytes(4))),
    "aiff of huge length": OddFile(
        with_bytes(_AIFF, b"COMM", 10, b"\x7f" + b"\xff" * 3), is_damaged=True
    ),
    "aifc with mu-law": OddFile(of("aifc", "-c:a", "pcm_mulaw", "-ar", "8000", "-f", "aiff")),
    "aifc with ima adpcm": OddFile(of("aifc", "-c:a", "adpcm_ima_qt", "-f", "aiff")),
    "mp2 in ts": OddFile(of("ts", "-c:a", "mp2", "-ar", "48000")),
    "ac3 in m2ts": OddFile(of("m2ts", "-c:a", "ac3", "-ar", "48000")),
    "ts joined": OddFile(edited(_TS, lambda d: 2 * d), 2 * LENGTH_S),
    "ts whose clock goes back": OddFile(
        edited(_TS, lambda d: d[: len(d) // 2 // 188 * 188] + d), 1.5 * LENGTH_S
    ),
    "ts with two tracks": OddFile(_two_tracks("ts", "-c:a", "mp2", "-ar", "48000")),
    "mp4 with two tracks": OddFile(_two_tracks("mp4", "-c:a", "aac")),
    "m4a with a cover": OddFile(_film("m4a", "-c:a", "aac", *_PICTURE)),
    "flac with a cover": OddFile(_film("flac", "-c:a", "flac", *_PICTURE)),
    "m4a of huge length": OddFile(
        with_bytes(_FRONT, b"mdhd", 20, b"\x7f" + b"\xff" * 3), is_damaged=True
    ),
    "m4a of no length": OddFile(with_bytes(_FRONT, b"mdhd", 20, bytes(4))),
    "m4a with junk behind it": OddFile(edited(made(M4A), lambda d: d + b"junk" * 1000)),
    "webm of huge length": OddFile(
        with_bytes(made(WEBM), _DURATION, 3, struct.pack(">d", 1e12)), is_damaged=True
    ),
    "webm of no number": OddFile(
        with_bytes(made(WEBM), _DURATION, 3, struct.pack(">d", float("nan")))
    ),
    "webm of negative length": OddFile(
        with_bytes(made(WEBM), _DURATION, 3, struct.pack(">d", -5000.0))
    ),
    "webm joined": OddFile(edited(made(WEBM), lambda d: 2 * d), 2 * LENGTH_S),
    "flac joined": OddFile(edited(_FLAC, lambda d: 2 * d), 2 * LENGTH_S),
    "flac behind id3": OddFile(
        edited(_FLAC, lambda d: b"ID3\3\0\0\0\0\x0f\x76" + bytes(2038) + d)
    ),
    "flac of no length": OddFile(edited(_FLAC, lambda d: d[:22] + bytes(4) + d[26:])),
    "wav behind id3": OddFile(
        edited(made(WAV), lambda d: b"ID3\3\0\0\0\0\x0f\x76" + bytes(2038) + d)
    ),
    "wav with id3 in it": OddFile(edited(made(WAV), lambda d: d[:12] + _ID3_CHUNK + d[12:])),
    "wav with half a sample at its end": OddFile(edited(made(WAV), lambda d: d[:-1])),
    "wav of no size with half a sample": OddFile(
        edited(with_bytes(made(WAV), b"data", 4, bytes(4)), lambda d: d[:-1])
    ),
    "mp3 behind junk": OddFile(edited(made(MP3), lambda d: _noise(5000) + d)),
    "mp3 behind zeros": OddFile(edited(made(MP3), lambda d: bytes(20_000) + d)),
    "mp3 named as wav": OddFile(made(MP3), name="a.wav"),
    "wav named as mp3": OddFile(made(WAV), name="a.mp3"),
    "ogg with junk in it": OddFile(
        edited(
            of("ogg", "-c:a", "libopus", "-page_duration", "200000"),
            lambda d: d[: len(d) // 2] + _noise(3000) + d[len(d) // 2 :],
        )
    ),
    "webm, still growing": OddFile(
        cut(of("webm", "-c:a", "libopus", "-live", "1"), 0.5), LENGTH_S / 2
    ),
    "wav, still growing": OddFile(
        cut(with_bytes(made(WAV), b"data", 4, bytes(4)), 0.5), LENGTH_S / 2
    ),
}  # fmt: skip

NOT_AUDIO: dict[str, Make] = {
    "one byte": lambda _: b"R",
    "riff alone": lambda _: b"RIFF\0\0\0\0WAVE",
    "a wav header": lambda folder: WAV(folder, LENGTH_S)[:44],
    "a page": lambda _: b"<html><body>404</body></html>" * 20,
    "an archive": lambda _: b"PK\3\4" + _noise(3000),
    "a silent film": _film("mp4", "-an", "-c:v", "mpeg4"),
    "an mp4's first box": lambda _: b"\0\0\0\x18ftypM4A " + bytes(12),
    "an mkv's first bytes": lambda _: b"\x1a\x45\xdf\xa3\x80",
    "an ogg page of nothing": lambda _: b"OggS" + bytes(60),
}

CUTTABLE: dict[str, Make] = {
    "wav": made(WAV), "mp3": made(MP3), "ogg": made(OPUS), "webm": made(WEBM), "flac": _FLAC,
    "m4a": _FRONT, "fragmented": made(FRAGMENTED), "ts": _TS, "3gp": of("3gp", "-c:a", "aac"),
    "wma": of("wma", "-c:a", "wmav2", "-ar", "44100"), "caf": _CAF, "aiff": _AIFF,
}  # fmt: skip
