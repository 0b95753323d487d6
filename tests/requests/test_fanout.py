"""Pieces of one audio and many engines; what clients get of it is tested end to end."""

import asyncio
import os
from types import SimpleNamespace
from typing import cast

import pytest
from tests.end_to_end.test_long import talk
from tests.requests.parrots import Heard, Reply, parrot, verbose
from tests.routers import MODEL, field, file, running_router, until

from vllm_router.audio.decoding.decoder import AudioDecoder, memory_file
from vllm_router.audio.wav import pcm16_wav, silence
from vllm_router.requests.fanout import Fanout
from vllm_router.requests.piece_transcriber import PieceTranscriber
from vllm_router.requests.pieces import EXTRA_SHARE, EXTRA_WINDOWS
from vllm_router.requests.transcription_request import TranscriptionRequest
from vllm_router.spool.upload import Spool

TALK = talk(100.0)


def asking(response_format: str, *more: bytes) -> list[bytes]:
    return [field("model", MODEL), field("response_format", response_format), *more, file(TALK)]


async def test_words_are_in_order_however_late_the_first_piece_is() -> None:
    async def says(heard: Heard) -> Reply:
        await asyncio.sleep(0.5 if heard.number == 0 else 0.0)
        return 200, verbose(f"piece {len(heard.audio)}.{heard.number}")

    async with parrot(says) as url, running_router(url, engine_max_windows=16) as router:
        body = (await router.upload(*asking("verbose_json", field("language", "en")))).json()
        starts = [segment["start"] for segment in body["segments"]]
        assert starts == sorted(starts)
        assert body["segments"][0]["text"].strip().endswith(".0")
        assert len(starts) > 3


async def test_times_of_words_move_with_their_piece_if_the_engine_gives_them() -> None:
    async def says(heard: Heard) -> Reply:
        words = [{"word": "so", "start": 0.5, "end": 0.75}]
        return 200, verbose("so", words=words)

    more = field("timestamp_granularities[]", "word")
    async with parrot(says) as url, running_router(url) as router:
        body = (await router.upload(*asking("verbose_json", more))).json()
        starts = [word["start"] for word in body["words"]]
        assert len(starts) > 3
        assert starts == sorted(starts)
        assert starts[-1] > 60


async def test_a_piece_whose_language_stands_alone_is_asked_for_again_in_the_majoritys() -> None:
    async def says(heard: Heard) -> Reply:
        # The last of them is short; the first takes its time.
        found = heard.fields.get("language") or ("nl" if seconds(heard) < 15 else "de")
        await asyncio.sleep(0.4 if heard.number == 0 else 0.0)
        return 200, verbose(f"{found} words", found)

    async with parrot(says) as url, running_router(url, engine_max_windows=16) as router:
        body = (await router.upload(*asking("verbose_json"))).json()
    assert body["language"] == "de"
    assert "nl" not in body["text"]
    assert body["text"].count("de words") == 5


#: Whole pieces are longer, their halves are not.
HALF_S = 20.0
LOOP = "each piece goes to a free " * 8
SENTENCE = "The quick brown fox jumps over the lazy dog beside the river while all of them watch. "
#: Four pieces of three sentences each.
SENTENCES = talk(92.4)


def seconds(heard: Heard) -> float:
    return (len(heard.audio) - 44) / 32_000


async def test_a_piece_in_which_the_engine_goes_round_in_circles_is_asked_for_in_halves() -> None:
    pieces: list[bytes] = []
    confused: list[bytes] = []

    async def says(heard: Heard) -> Reply:
        pieces.append(heard.audio[44:])
        # What is long confuses it, twice.
        is_confused = seconds(heard) > HALF_S and len(confused) < 2
        if is_confused:
            confused.append(heard.audio[44:])
        said = (SENTENCE * 6)[: round(seconds(heard) * 15)]
        return 200, {"text": LOOP if is_confused else said}

    async with (
        parrot(says) as url,
        running_router(url, engine_max_windows=16, verify=True) as router,
    ):
        fields = field("model", MODEL), field("response_format", "verbose_json")
        body = (await router.upload(*fields, file(SENTENCES))).json()
        metrics = await router.metrics()
    assert "free" not in body["text"]
    halves = [piece for piece in pieces if len(piece) <= HALF_S * 32_000]
    assert len(pieces) == 4 + len(halves) == 8
    whole = b"".join(sorted(confused, key=SENTENCES.index))
    assert b"".join(sorted(halves, key=SENTENCES.index)) == whole
    starts = [segment["start"] for segment in body["segments"]]
    assert starts == sorted(set(starts))
    assert body["duration"] == pytest.approx(92.4, abs=0.001)
    assert metrics['vllm_router_pieces_total{outcome="heard"}'] == 4
    reheard = f'vllm_router_reheard_seconds_total{{model="{MODEL}",reason="too_much"}}'
    assert metrics[reheard] == pytest.approx(len(whole) / 32_000, abs=0.001)


async def test_a_loop_that_cannot_be_helped_stays_as_it_was_heard() -> None:
    asked = 0

    async def says(heard: Heard) -> Reply:
        nonlocal asked
        asked += 1
        return (200 if seconds(heard) > HALF_S else 400), {"text": LOOP}

    async with (
        parrot(says) as url,
        running_router(url, engine_max_windows=1, verify=True) as router,
    ):
        answer = await router.upload(field("model", MODEL), file(SENTENCES))
        (engine,) = router.router.dispatcher.fleet.engines()
        await until(lambda: engine.in_flight == 0)
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"].count(LOOP.strip()) == 4
    # Eight windows more are allowed for four: both halves of each, or one where the refusal of the
    # first has saved the second, or none after three that did not help.
    assert 6 <= asked <= 12


async def test_an_engine_that_only_ever_loops_is_not_asked_for_ever() -> None:
    asked = 0

    async def says(heard: Heard) -> Reply:
        nonlocal asked
        asked += 1
        return 200, {"text": LOOP}

    async with (
        parrot(says) as url,
        running_router(url, engine_max_windows=8, verify=True) as router,
    ):
        assert (await router.upload(field("model", MODEL), file(SENTENCES))).status_code == 200
    assert 6 <= asked <= 4 + EXTRA_WINDOWS + 4 * EXTRA_SHARE


async def test_a_length_is_the_whole_audios_not_that_of_the_speech_in_it() -> None:
    sound = talk(7.0)[44:] + silence(20.0)[44:]
    source = memory_file(pcm16_wav(sound))
    size = os.fstat(source).st_size
    request = cast(TranscriptionRequest, SimpleNamespace(file=SimpleNamespace(start=0, end=size)))
    try:
        async with AudioDecoder(vad="level") as decoder, asyncio.timeout(30):
            fanout = Fanout(
                cast(PieceTranscriber, None), decoder, cast(Spool, None), lambda _: None
            )
            assert await fanout.length_s(request, source) == pytest.approx(27.0)
            found = await fanout.speech(request, source)
    finally:
        os.close(source)
    assert found is not None
    assert found.length_s == pytest.approx(27.0)
    assert found.speech_s == pytest.approx(7.0, abs=0.3)
