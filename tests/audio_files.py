"""Audio files of every kind, made by ffmpeg, for the tests of parsers and decoders."""

import subprocess
from pathlib import Path

import pytest

# Brown noise in bursts: enough structure that variable bit rates vary.
_SOUND = "anoisesrc=color=brown:seed=7:amplitude=0.4,volume='if(lt(mod(t,3),2),1,0.02)':eval=frame"

KINDS: dict[str, tuple[str, list[str]]] = {
    "wav_s16": ("wav", ["-c:a", "pcm_s16le"]),
    "wav_u8_8k": ("wav", ["-c:a", "pcm_u8", "-ar", "8000"]),
    "wav_s24_stereo": ("wav", ["-c:a", "pcm_s24le", "-ac", "2", "-ar", "44100"]),
    "wav_s32_96k": ("wav", ["-c:a", "pcm_s32le", "-ar", "96000"]),
    "wav_float": ("wav", ["-c:a", "pcm_f32le", "-ar", "48000"]),
    "wav_double": ("wav", ["-c:a", "pcm_f64le"]),
    "wav_alaw": ("wav", ["-c:a", "pcm_alaw", "-ar", "8000"]),
    "wav_mulaw": ("wav", ["-c:a", "pcm_mulaw", "-ar", "8000"]),
    "wav_adpcm": ("wav", ["-c:a", "adpcm_ms"]),
    "wav_surround": ("wav", ["-c:a", "pcm_s16le", "-ac", "6", "-ar", "48000"]),
    "wav_rf64": ("wav", ["-c:a", "pcm_s16le", "-rf64", "always"]),
    "wav_tagged": ("wav", ["-c:a", "pcm_s16le", "-metadata", "title=a b c", "-write_bext", "1"]),
    "flac": ("flac", ["-c:a", "flac", "-ar", "44100"]),
    "flac_stereo_24": ("flac", ["-c:a", "flac", "-sample_fmt", "s32", "-ac", "2", "-ar", "96000"]),
    "mp3_cbr": ("mp3", ["-c:a", "libmp3lame", "-b:a", "128k", "-ar", "44100"]),
    "mp3_cbr_bare": (
        "mp3",
        ["-c:a", "libmp3lame", "-b:a", "64k", "-ar", "44100", "-write_xing", "0",
         "-id3v2_version", "0"],
    ),
    "mp3_cbr_tagged": (
        "mp3",
        ["-c:a", "libmp3lame", "-b:a", "32k", "-ar", "22050", "-write_xing", "0",
         "-write_id3v1", "1", "-metadata", "title=t"],
    ),
    "mp3_vbr": ("mp3", ["-c:a", "libmp3lame", "-q:a", "4", "-ar", "44100", "-ac", "2"]),
    "mp3_8k": ("mp3", ["-c:a", "libmp3lame", "-b:a", "16k", "-ar", "8000"]),
    "mp2": ("mp2", ["-c:a", "mp2", "-b:a", "64k", "-ar", "48000"]),
    "opus": ("ogg", ["-c:a", "libopus", "-b:a", "24k"]),
    "opus_stereo": ("ogg", ["-c:a", "libopus", "-b:a", "96k", "-ac", "2"]),
    "vorbis": ("ogg", ["-c:a", "libvorbis", "-q:a", "3", "-ar", "44100"]),
    "ogg_flac": ("ogg", ["-c:a", "flac", "-ar", "16000"]),
    "ogg_speex": ("ogg", ["-c:a", "libspeex", "-ar", "16000"]),
    "m4a": ("m4a", ["-c:a", "aac", "-b:a", "64k", "-ar", "44100"]),
    "m4a_front": ("m4a", ["-c:a", "aac", "-b:a", "64k", "-movflags", "+faststart"]),
    "m4a_fragmented": (
        "mp4",
        ["-c:a", "aac", "-movflags", "+frag_keyframe+empty_moov+default_base_moof",
         "-frag_duration", "1000000"],
    ),
    "m4a_dash": (
        "mp4",
        ["-c:a", "aac", "-movflags", "+dash+global_sidx", "-frag_duration", "1000000"],
    ),
    "mov_pcm": ("mov", ["-c:a", "pcm_s16le"]),
    # PyAV 17.1 to 18 crash on it.
    "mov_surround_71": ("mov", ["-c:a", "pcm_s16le", "-ac", "8", "-ar", "8000"]),
    "aiff": ("aiff", ["-c:a", "pcm_s16be", "-ar", "44100", "-ac", "2"]),
    "aiff_c": ("aiff", ["-c:a", "pcm_s16le", "-ar", "16000"]),
    "alac": ("m4a", ["-c:a", "alac", "-ar", "44100"]),
    "webm_opus": ("webm", ["-c:a", "libopus", "-b:a", "32k"]),
    "webm_vorbis": ("webm", ["-c:a", "libvorbis"]),
    "mka_flac": ("mka", ["-c:a", "flac"]),
    "aac_adts": ("aac", ["-c:a", "aac", "-b:a", "64k", "-ar", "44100"]),
    "video_mp4": ("mp4", ["-c:a", "aac", "-c:v", "mpeg4", "-shortest"]),
    "video_webm": ("webm", ["-c:a", "libopus", "-c:v", "libvpx", "-b:v", "50k", "-shortest"]),
}  # fmt: skip

LONG = (
    "flac", "mp3_cbr", "mp3_cbr_bare", "mp3_vbr", "opus", "vorbis", "m4a", "m4a_front",
    "m4a_fragmented", "m4a_dash", "alac", "webm_opus", "aac_adts", "video_mp4",
)  # fmt: skip
"""Kinds for which it matters whether head and tail cover the whole file."""


def make(path: Path, seconds: float, options: list[str], rate_hz: int = 16_000) -> Path:
    """Write `seconds` of noise as ffmpeg makes it of `options`, with moving pictures for video."""
    inputs = ["-f", "lavfi", "-i", f"{_SOUND},aresample={rate_hz}"]
    if "-c:v" in options:
        inputs += ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=5"]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *inputs, "-t", str(seconds), *options]
    subprocess.run([*command, str(path)], check=True)
    return path


@pytest.fixture(scope="session")
def silent_hours(audio_folder: Path) -> Path:
    """Return a small file that takes seconds to decode: two hours of digital silence."""
    path = audio_folder / "silent_hours.flac"
    source = ["-f", "lavfi", "-i", "anullsrc=r=48000:cl=stereo", "-t", "7190"]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *source, "-c:a", "flac", str(path)]
    subprocess.run(command, check=True)
    return path


def make_kind(folder: Path, kind: str, seconds: float) -> Path:
    """Write one of KINDS into `folder`."""
    extension, options = KINDS[kind]
    path = folder / f"{kind}_{seconds:g}.{extension}"
    return path if path.exists() else make(path, seconds, options)


def piped(path: Path, container: str, seconds: float, options: list[str]) -> Path:
    """Write through a pipe, so that the writer cannot go back to fill in lengths."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", _SOUND]
    command += ["-t", str(seconds), *options, "-f", container, "pipe:1"]
    path.write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return path


def probed_seconds(path: Path) -> float:
    """Return the length that ffprobe tells, of the audio stream if it says."""
    command = ["ffprobe", "-v", "error", "-select_streams", "a:0", "-of", "csv=p=0"]
    command += ["-show_entries", "stream=duration:format=duration", str(path)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(next(word for word in answer.split() if word != "N/A"))


@pytest.fixture(scope="session")
def audio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the one folder in which a test run's audio files are made, each once."""
    folder = tmp_path_factory.getbasetemp() / "audio"
    folder.mkdir(exist_ok=True)
    return folder
