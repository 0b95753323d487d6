"""Recordings of people, and long recordings joined from them, with the truth about both.

The recordings lie beside the clone (`../shared/real_speech`, or the folder named by
VLLM_ROUTER_REAL_SPEECH): an `index.json` with each file's language and words. They are not ours to
ship, so whoever needs them skips without them.

A joined recording is the same for the same seed. Its truth holds the words of each clip, when they
begin and end, and the stretches of sound in between. Both are read off the clip's level: recordings
have up to a second of room noise around the words.
"""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.speech.recordings import RATE_HZ, Recording, Sentence, wav

from vllm_router.local.audio import decode

Pause = Literal["silence", "noise", "music", "phone"]
Samples = NDArray[np.float32]

PLACE = Path(
    os.environ.get("VLLM_ROUTER_REAL_SPEECH")
    or Path(__file__).parents[3] / "shared" / "real_speech"
)
# The index may lie beside the folder of the recordings or in it.
_FOLDERS = (PLACE, PLACE / "recordings")
MISSING = f"no recordings of people in {PLACE}; name their folder by VLLM_ROUTER_REAL_SPEECH"
# Lengths of pauses in seconds. Noise and music last long enough to fill windows of their own.
SHORT_PAUSES_S = (0.3, 0.6, 1.2, 3.0)
LONG_PAUSE_S = (4.0, 25.0)
# Peak levels: noise and music that nobody would talk over, but no level meter takes for silence.
NOISE_PEAK, CHORD_PEAK, RING_PEAK = 0.09, 0.045, 0.1
# An A minor sixth or so; each pause moves its notes.
CHORD_HZ = (220.0, 277.2, 329.6)
# The North American ringing tone: two tones, two seconds of every six.
RING_HZ, RING_S, RING_EVERY_S = (440.0, 480.0), 2.0, 6.0
# Sound counts as speech from this far below the clip's loud parts, or this far over its quiet ones.
BELOW_LOUD_DB, OVER_QUIET_DB = 32.0, 9.0
FRAME = RATE_HZ // 100
# Shorter gaps belong to the speech around them; shorter sounds are clicks.
SHORTEST_GAP_S, SHORTEST_SOUND_S = 0.3, 0.05


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording of a person; `stretches` are the seconds in which there is sound."""

    name: str
    language: str
    text: str
    samples: Samples
    stretches: tuple[tuple[float, float], ...]


def is_there() -> bool:
    """Say whether there are recordings of people on this machine."""
    return any((folder / "index.json").is_file() for folder in _FOLDERS)


def clips(language: str = "en") -> list[Clip]:
    """Return all recordings in a language, in the order of their names; skip without any."""
    return [clip(name) for name, entry in _index().items() if entry["language"] == language]


def clip(name: str) -> Clip:
    """Return a recording by its file's name; skip without it."""
    entry = _index().get(name)
    if entry is None:
        pytest.skip(MISSING)
    return _read(name, entry["language"], entry["text"])


def spoken(name: str) -> Recording:
    """Return the file of a recording as it is, with its words; skip without it."""
    one = clip(name)
    return Recording(
        name=name,
        audio=_path(name).read_bytes(),
        duration_s=len(one.samples) / RATE_HZ,
        sentences=(_sentence(one, 0.0),),
    )


def joined_clips(
    seed: int,
    count: int,
    pauses: Sequence[Pause] = ("silence",),
    languages: Sequence[str] = ("en",),
) -> Recording:
    """Join clips in a random order, with a pause before each; skip without recordings.

    Args:
        seed: Chooses clips, pauses and noise.
        count: Clips.
        pauses: The kinds to choose from.
        languages: In turn: the first half of the clips is in the first language, and so on.
    """
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    parts: list[Samples] = []
    sentences: list[Sentence] = []
    at = 0
    for number in range(count):
        language = languages[number * len(languages) // count]
        chosen = rng.choice(clips(language))
        kind = rng.choice(list(pauses))
        length_s = rng.choice(SHORT_PAUSES_S) if kind == "silence" else rng.uniform(*LONG_PAUSE_S)
        parts += [pause(kind, length_s, rng, noise), chosen.samples]
        at += len(parts[-2])
        sentences.append(_sentence(chosen, at / RATE_HZ))
        at += len(chosen.samples)
    return _recording(f"people-{seed}.wav", parts, sentences)


def in_a_row(recordings: Sequence[Recording]) -> Recording:
    """Return recordings one right after the other."""
    parts: list[Samples] = []
    sentences: list[Sentence] = []
    at_s = 0.0
    for one in recordings:
        parts.append(decode(one.audio))
        sentences += [_moved(sentence, at_s) for sentence in one.sentences]
        at_s += len(parts[-1]) / RATE_HZ
    return _recording("in-a-row.wav", parts, sentences)


def no_speech(kind: Pause, length_s: float, seed: int = 1) -> Recording:
    """Return a recording in which nobody speaks."""
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    return _recording(f"{kind}.wav", [pause(kind, length_s, rng, noise)], [])


def pause(kind: Pause, length_s: float, rng: random.Random, noise: np.random.Generator) -> Samples:
    """Return sound without speech, from -1 to 1."""
    count = round(length_s * RATE_HZ)
    time_s = np.arange(count) / RATE_HZ
    if kind == "silence":
        sound = np.zeros(count)
    elif kind == "noise":
        # Pink: each octave as loud as the next.
        spectrum = np.fft.rfft(noise.standard_normal(count))
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
        sound = np.fft.irfft(spectrum, count)
        sound *= NOISE_PEAK / np.abs(sound).max()
    elif kind == "music":
        notes_hz = [hz * 2 ** (rng.randrange(8) / 12) for hz in CHORD_HZ]
        swell = 0.5 + 0.5 * np.sin(2 * np.pi * 2.0 * time_s)
        sound = CHORD_PEAK * swell * sum(np.sin(2 * np.pi * hz * time_s) for hz in notes_hz)
    else:
        is_ringing = time_s % RING_EVERY_S < RING_S
        sound = RING_PEAK * is_ringing * sum(np.sin(2 * np.pi * hz * time_s) for hz in RING_HZ)
    return np.asarray(sound, dtype=np.float32)


def stretches_of_sound(samples: Samples) -> tuple[tuple[float, float], ...]:
    """Return when a clip is loud enough for speech, in seconds, ordered and disjoint."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    level_db = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-12)
    quiet_db, loud_db = np.percentile(level_db, (5, 95))
    is_sound = level_db > max(loud_db - BELOW_LOUD_DB, quiet_db + OVER_QUIET_DB)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], is_sound.astype(np.int8), [0]))))
    found: list[tuple[float, float]] = []
    for start, end in edges.reshape(-1, 2) * FRAME / RATE_HZ:
        if found and start - found[-1][1] < SHORTEST_GAP_S:
            found[-1] = (found[-1][0], float(end))
        else:
            found.append((float(start), float(end)))
    return tuple((start, end) for start, end in found if end - start >= SHORTEST_SOUND_S)


def _sentence(one: Clip, at_s: float) -> Sentence:
    start_s, end_s = one.stretches[0][0], one.stretches[-1][1]
    return _moved(Sentence(start_s, end_s, one.text, one.stretches), at_s)


def _moved(one: Sentence, by_s: float) -> Sentence:
    stretches = tuple((start + by_s, end + by_s) for start, end in one.stretches)
    return Sentence(one.start_s + by_s, one.end_s + by_s, one.text, stretches)


def _recording(name: str, parts: Sequence[Samples], sentences: Sequence[Sentence]) -> Recording:
    samples = np.concatenate(parts)
    pcm = (np.clip(samples, -1, 1) * 32767).round().astype("<i2")
    return Recording(name, wav(pcm), len(samples) / RATE_HZ, tuple(sentences))


@cache
def _read(name: str, language: str, text: str) -> Clip:
    samples = decode(_path(name).read_bytes())
    return Clip(name, language, text, samples, stretches_of_sound(samples))


def _path(name: str) -> Path:
    return next(folder / name for folder in _FOLDERS if (folder / name).exists())


def _index() -> dict[str, dict[str, str]]:
    for folder in _FOLDERS:
        if (folder / "index.json").is_file():
            entries: dict[str, dict[str, str]] = json.loads((folder / "index.json").read_text())
            return dict(sorted(entries.items()))
    pytest.skip(MISSING)
