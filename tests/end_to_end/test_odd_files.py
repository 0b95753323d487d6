"""Odd files: true lengths, the same in every format, or a clear refusal; nothing is left."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
from tests.audio_files import audio_folder
from tests.end_to_end.test_files import SETTINGS, Engine
from tests.odd_files import CUTTABLE, NOT_AUDIO, ODD_FILES
from tests.requests.parrots import parrot
from tests.requests.test_single import events
from tests.routers import MODEL, RunningRouter, field, file, running_router, until

__all__ = ["audio_folder"]


async def answers(router: RunningRouter, data: bytes, name: str) -> list[Any]:
    """Return what four ways of asking for a file give: json, verbose_json, srt, and events."""
    asked = [("json", "false"), ("verbose_json", "false"), ("srt", "false"), ("json", "true")]
    return [
        await router.upload(
            field("model", MODEL),
            field("response_format", response_format),
            field("stream", stream),
            file(data, name),
            Authorization="Bearer k",
        )
        for response_format, stream in asked
    ]


def seconds_told(found: list[Any]) -> set[int]:
    """Return the seconds of usage in all answers that have one."""
    told = [found[0].json(), found[1].json(), events(found[3].text)[-1]]
    return {each["usage"]["seconds"] for each in told}


def warned(found: list[Any]) -> set[bool]:
    """Return whether the answers tell of damage."""
    headers = {"x-audio-warning" in answer.headers for answer in found[:3]}
    return headers | {"warning" in events(found[3].text)[-1]}


@pytest.mark.parametrize("name", ODD_FILES)
async def test_an_odd_file_is_transcribed_to_its_end(name: str, audio_folder: Path) -> None:
    odd = ODD_FILES[name]
    data = odd.make(audio_folder)
    async with parrot(Engine()) as url, running_router(url, **SETTINGS) as router:
        found = await answers(router, data, odd.name)
    assert [answer.status_code for answer in found] == [200] * 4, found[0].text
    duration = found[1].json()["duration"]
    assert duration == pytest.approx(odd.length_s, abs=0.3)
    assert seconds_told(found) == {math.ceil(duration)}
    assert warned(found) == {odd.is_damaged}
    assert not found[0].json()["text"].startswith(" ")


async def test_what_is_no_audio_is_refused_and_nothing_is_left(audio_folder: Path) -> None:
    async with parrot(Engine()) as url, running_router(url, **SETTINGS) as router:
        before = len(os.listdir("/proc/self/fd"))
        for name, make in NOT_AUDIO.items():
            for answer in await answers(router, make(audio_folder), "a.wav"):
                assert answer.status_code == 400, name
                error = answer.json()["error"]
                assert error["type"] == "invalid_request_error"
                assert error["message"]
        # The engine's connections may be as many as there were uploads at a time.
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before + 4)


@pytest.mark.parametrize("kind", CUTTABLE)
async def test_a_file_cut_anywhere_is_transcribed_or_refused_alike(
    kind: str, audio_folder: Path
) -> None:
    data = CUTTABLE[kind](audio_folder)
    rng = random.Random(kind)
    async with parrot(Engine()) as url, running_router(url, **SETTINGS) as router:
        for _ in range(3):
            found = await answers(router, data[: rng.randrange(20, len(data))], "a")
            codes = {answer.status_code for answer in found}
            assert codes in ({200}, {400}), found[0].text
            if codes == {200}:
                duration = found[1].json()["duration"]
                assert 0 < duration < 8
                assert seconds_told(found) == {math.ceil(duration)}
