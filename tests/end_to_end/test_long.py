"""Audio of any length: cut where it is quiet, heard by all engines, put back together."""

import asyncio
import hashlib
import json
import re
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pysubs2
import pytest
from tests.audio_files import make_kind
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import (
    MODEL,
    TRANSCRIPTIONS,
    RunningRouter,
    field,
    file,
    form,
    named,
    request,
    running_router,
    until,
)

from vllm_router.audio.wav import pcm16_wav, silence

RATE_HZ = 16_000


def talk(seconds: float, sentence_s: float = 7.0, pause_s: float = 0.7) -> bytes:
    """Return a WAV of noise in bursts, as sentences with pauses between."""
    rng = np.random.default_rng(7)
    count = int(seconds * RATE_HZ)
    noise = rng.normal(0, 3000, count)
    at = np.arange(count) / RATE_HZ % (sentence_s + pause_s)
    pcm = np.where(at < sentence_s, noise, 0).clip(-32000, 32000).astype("<i2")
    return pcm16_wav(pcm.tobytes(), RATE_HZ)


TALK = talk(100.0)
STREAM = field("stream", "true")


@pytest.fixture
async def engines() -> AsyncIterator[list[SimulatedHandle]]:
    async with (
        serve_simulated(MODEL, time_scale=100) as a,
        serve_simulated(MODEL, time_scale=100) as b,
    ):
        yield [a, b]


@pytest.fixture
async def router(engines: list[SimulatedHandle]) -> AsyncIterator[RunningRouter]:
    async with running_router(*engines, static_aliases=f"whisper-1:{MODEL}") as router:
        yield router


def asking(response_format: str, *more: bytes, audio: bytes = TALK) -> list[bytes]:
    return [field("model", MODEL), field("response_format", response_format), *more, file(audio)]


def pieces_of(engines: list[SimulatedHandle]) -> list[Any]:
    return [one for engine in engines for one in engine.log.audio()]


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


async def test_pieces_go_to_all_engines_and_come_back_as_one(
    router: RunningRouter, engines: list[SimulatedHandle]
) -> None:
    for engine in engines:
        await engine.order(delay_s=0.2)
    answer = await router.upload(
        field("model", "whisper-1"),
        field("response_format", "verbose_json"),
        field("prompt", "as it was"),
        file(TALK),
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["duration"] == pytest.approx(100.0, abs=0.001)
    assert [s["id"] for s in body["segments"]] == list(range(len(body["segments"])))
    times = [(s["start"], s["end"]) for s in body["segments"]]
    assert times == sorted(times)
    assert times[-1][1] <= 100.0
    assert all(engine.log.audio() for engine in engines)
    for piece in pieces_of(engines):
        fields = dict(piece.fields)
        assert fields["model"] == MODEL.encode()
        assert fields["prompt"] == b"as it was"
        assert piece.file.size_bytes <= 44 + 30 * RATE_HZ * 2
        digest = piece.file.sha256[:8]
        assert f"of {digest}" in body["text"]
    samples = sum(piece.file.size_bytes - 44 for piece in pieces_of(engines)) / 2
    # All of the speech and what is heard around it, and nothing twice.
    assert 91.0 <= samples / RATE_HZ < 100.0
    assert set(answer.headers["x-engine-id"].split(",")) == {engine.url for engine in engines}


async def test_pieces_go_without_a_language_that_nobody_gave(
    router: RunningRouter, engines: list[SimulatedHandle]
) -> None:
    assert (await router.upload(*asking("json"))).status_code == 200
    assert ["language" in dict(piece.fields) for piece in pieces_of(engines)] == [False] * 5


async def test_a_language_given_is_kept(
    router: RunningRouter, engines: list[SimulatedHandle]
) -> None:
    assert (await router.upload(*asking("json", field("language", "de")))).status_code == 200
    assert {dict(p.fields)["language"] for p in pieces_of(engines)} == {b"de"}


@pytest.mark.parametrize("kind", ["json", "text", "srt", "vtt", "verbose_json"])
async def test_every_format_streamed_and_not(router: RunningRouter, kind: str) -> None:
    whole = await router.upload(*asking(kind))
    assert whole.status_code == 200
    answer = await router.upload(*asking(kind, field("stream", "true")))
    *before, done = events(answer.text)
    deltas = "".join(e["delta"] for e in before if e["type"] == "transcript.text.delta")
    assert deltas == done["text"]
    # A stream's leading piece is shorter, so that these made-up words, which depend on the bytes of
    # each piece, are others; tests on real engines compare what is said.
    text = whole.json()["text"] if "json" in kind else whole.text
    for said in (text, done["text"]):
        assert said.count("Window 0 of") >= 4
        if kind in ("srt", "vtt"):
            cues = pysubs2.SSAFile.from_string(said, format_=kind)
            assert len(cues) >= 8
            assert 90_000 < cues[-1].end <= 100_000


async def test_first_words_stream_out_while_the_rest_is_being_heard(
    engines: list[SimulatedHandle],
) -> None:
    async with running_router(engines[0], engine_max_windows=1) as router:
        body = form(*asking("json", field("stream", "true"), audio=talk(200.0)))
        async with router.client.stream(
            "POST", TRANSCRIPTIONS, content=body, headers=named({})
        ) as answer:
            async for _ in answer.aiter_bytes():
                break
            heard = len([one for one in engines[0].log.audio() if one.ended_at is not None])
            assert heard < 5


async def test_pieces_of_nothing_but_silence_are_not_sent(
    router: RunningRouter, engines: list[SimulatedHandle]
) -> None:
    answer = await router.upload(*asking("verbose_json", audio=silence(120.0)))
    assert answer.status_code == 200
    assert answer.json()["text"] == ""
    assert answer.json()["duration"] == 120.0
    assert pieces_of(engines) == []
    metrics = await router.metrics()
    assert not any(value for name, value in metrics.items() if "router_pieces_total" in name)
    streamed = await router.upload(*asking("srt", field("stream", "true"), audio=silence(120.0)))
    assert events(streamed.text)[-1]["text"] == ""


async def test_silence_is_sent_where_it_is_wanted(engines: list[SimulatedHandle]) -> None:
    async with running_router(*engines, skip_silence=False) as router:
        assert (await router.upload(*asking("json", audio=silence(120.0)))).status_code == 200
        assert pieces_of(engines)


async def test_a_piece_that_one_engine_fails_at_goes_to_another(
    router: RunningRouter, engines: list[SimulatedHandle]
) -> None:
    await engines[0].order(status=503, times=2)
    await engines[1].order(bad_body=True, times=1)
    assert (await router.upload(*asking("json"))).status_code == 200


async def test_seconds_that_cannot_be_had_fail_the_request_by_name(
    router: RunningRouter, engines: list[SimulatedHandle]
) -> None:
    """The whole fleet refuses one piece; its own words are the client's to see."""
    for engine in engines:
        await engine.order(status=400)
    answer = await router.upload(*asking("json"))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "a fault was ordered"


async def test_a_refusal_in_the_middle_of_a_stream_is_an_error_event(
    engines: list[SimulatedHandle],
) -> None:
    async with running_router(engines[0], engine_max_windows=1) as router:
        body = form(*asking("json", field("stream", "true"), audio=talk(200.0)))
        got = b""
        async with router.client.stream(
            "POST", TRANSCRIPTIONS, content=body, headers=named({})
        ) as answer:
            async for data in answer.aiter_bytes():
                if not got:
                    await engines[0].order(status=422)
                got += data
        last = events(got.decode())[-1]
        assert "a fault was ordered" in last["error"]["message"]
        assert "transcript.text.done" not in got.decode()


async def test_a_poisonous_piece_fails_the_request_with_its_seconds(
    engines: list[SimulatedHandle],
) -> None:
    async with running_router(*engines) as router:
        await poison_the_last_piece(engines)
        answer = await router.upload(*asking("json"))
        assert answer.status_code == 502
        said = answer.json()["error"]["message"]
        assert re.match(r"Seconds \d\d\.\d to 99\.8 of the audio were not transcribed", said), said
        await poison_the_last_piece(engines, STREAM)
        streamed = await router.upload(*asking("json", STREAM))
        assert streamed.status_code == 200
        assert "were not transcribed" in events(streamed.text)[-1]["error"]["message"]


async def test_partial_ok_says_what_is_missing(engines: list[SimulatedHandle]) -> None:
    async with running_router(*engines, partial_ok=True) as router:
        await poison_the_last_piece(engines)
        answer = await router.upload(*asking("verbose_json"))
        assert answer.status_code == 200
        # A piece ends a moment after the last sentence in it.
        [gap] = answer.json()["missing"]
        assert 70 <= gap["start"] < 100
        assert gap["end"] == pytest.approx(99.8, abs=0.1)
        shown = f"{gap['start']:.3f}-{gap['end']:.3f}"
        assert answer.headers["x-missing-seconds"] == shown
        await poison_the_last_piece(engines, STREAM)
        streamed = await router.upload(*asking("json", STREAM))
        [gap] = events(streamed.text)[-1]["missing"]
        assert 70 <= gap["start"] < gap["end"] == pytest.approx(99.8, abs=0.1)
        metrics = await router.metrics()
        assert metrics['vllm_router_pieces_total{outcome="missing"}'] == 2


async def poison_the_last_piece(engines: list[SimulatedHandle], *more: bytes) -> None:
    """Let all engines fail at the last piece of the talk, as it is cut with these fields."""
    for engine in engines:
        await engine.order()
    last = (await pieces_alone(engines[0], TALK, *more))[-1]
    for engine in engines:
        await engine.order(poison_sha256=last)


async def pieces_alone(engine: SimulatedHandle, audio: bytes, *more: bytes) -> list[str]:
    """Return the digests of the pieces that an audio is cut into, in order."""
    async with running_router(engine, engine_max_windows=1) as router:
        engine.log.clear()
        assert (await router.upload(*asking("json", *more, audio=audio))).status_code == 200
        # A piece may be asked for a second time; its ID says which it is.
        digests = {
            int(one.header("x-request-id").split("/")[1].split("-")[0]): one.file.sha256
            for one in engine.log.audio()
            if one.file
        }
        engine.log.clear()
        return [digests[index] for index in sorted(digests)]


async def test_a_client_that_leaves_stops_all_of_it(engines: list[SimulatedHandle]) -> None:
    async with running_router(*engines) as router:
        for engine in engines:
            await engine.order(hang="answer")
        _, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(request(form(*asking("json", field("language", "en")))))
        await until(lambda: len(pieces_of(engines)) >= 3)
        writer.close()
        fleet = router.router.dispatcher.fleet
        await until(lambda: all(e.in_flight == 0 for e in fleet.engines()))
        await until(lambda: all(one.ended_at is not None for one in pieces_of(engines)))
        await until(lambda: router.router.dispatcher.slots.waiting == 0)
        await until(lambda: not any(s.open_uploads for s in router.router.spools))


async def test_split_off_leaves_it_to_the_engine(engines: list[SimulatedHandle]) -> None:
    async with running_router(engines[0], split="off") as router:
        assert (await router.upload(*asking("json"))).status_code == 200
        [logged] = engines[0].log.audio()
        assert logged.file is not None
        assert logged.file.sha256 == hashlib.sha256(TALK).hexdigest()


async def test_split_always_cuts_whatever_is_over_one_window(
    engines: list[SimulatedHandle],
) -> None:
    async with running_router(engines[0], split="always") as router:
        assert (await router.upload(*asking("json", audio=talk(40.0)))).status_code == 200
        assert len(engines[0].log.audio()) > 1


async def test_a_file_over_an_engines_25_mb_is_cut_though_it_is_short(
    engines: list[SimulatedHandle], tmp_path: Path
) -> None:
    pcm = np.random.default_rng(1).normal(0, 3000, 2 * 48_000 * 50).astype("<f4").tobytes()
    header = b"RIFF" + struct.pack("<I", 36 + 2 * len(pcm)) + b"WAVEfmt "
    header += struct.pack("<IHHIIHH", 16, 3, 4, 48_000, 48_000 * 16, 16, 32)
    audio = header + b"data" + struct.pack("<I", 2 * len(pcm)) + pcm + pcm
    assert len(audio) > 25 * 2**20
    async with running_router(*engines) as router:
        answer = await router.upload(*asking("verbose_json", audio=audio))
        assert answer.status_code == 200, answer.text
        assert answer.json()["duration"] == pytest.approx(50.0, abs=0.01)
        assert len(pieces_of(engines)) > 1


@pytest.mark.parametrize("kind", ["mp3_cbr", "flac", "opus", "m4a", "webm_opus", "wav_s24_stereo"])
async def test_every_container_is_cut(
    router: RunningRouter, engines: list[SimulatedHandle], kind: str, tmp_path: Path
) -> None:
    audio = make_kind(tmp_path, kind, 70.0).read_bytes()
    answer = await router.upload(*asking("verbose_json", audio=audio))
    assert answer.status_code == 200, answer.text
    assert answer.json()["duration"] == pytest.approx(70.0, abs=0.2)
    assert len(pieces_of(engines)) > 2


def lying() -> dict[str, bytes]:
    """Return files that are broken each in its own way, long enough to be decoded here."""
    wav = bytearray(TALK)
    fast = bytearray(TALK)
    fast[24:28] = struct.pack("<I", 4_000_000_000)
    none = bytearray(TALK)
    none[22:24] = b"\0\0"
    return {
        "not audio": b"this is no audio " * 2_000_000,
        "a rate of 4 GHz": bytes(fast),
        "no channels": bytes(none),
        "only a header": bytes(wav[:44]),
    }


@pytest.mark.parametrize("name", lying())
async def test_a_broken_file_is_a_400_that_names_the_trouble(
    engines: list[SimulatedHandle], name: str
) -> None:
    async with running_router(engines[0], split="always") as router:
        answer = await router.upload(*asking("json", audio=lying()[name]))
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["code"] == "invalid_audio"
        assert len(error["message"]) > 10


async def test_a_file_that_ends_early_is_heard_as_far_as_it_goes(router: RunningRouter) -> None:
    answer = await router.upload(*asking("verbose_json", audio=TALK[: len(TALK) * 3 // 4]))
    if answer.status_code == 200:
        assert answer.json()["duration"] == pytest.approx(75.0, abs=0.1)
    else:
        assert answer.json()["error"]["code"] == "invalid_audio"


async def test_audio_longer_than_allowed_is_a_400(engines: list[SimulatedHandle]) -> None:
    async with running_router(engines[0], max_audio_s=90) as router:
        answer = await router.upload(*asking("json"))
        assert answer.status_code == 400
        assert "90" in answer.json()["error"]["message"]


async def test_batch_priority_puts_a_short_upload_in_the_long_class(
    engines: list[SimulatedHandle],
) -> None:
    async with running_router(engines[0]) as router:
        await router.upload(X_Priority="batch")
        await router.upload(X_Priority="normal")
        metrics = await router.metrics()
        waits = {
            name: value for name, value in metrics.items() if "queue_wait_seconds_count" in name
        }
        assert [value for name, value in waits.items() if 'urgency="long"' in name] == [1]
        assert [value for name, value in waits.items() if 'urgency="short"' in name] == [1]


async def test_words_times_are_refused_for_long_audio_too(router: RunningRouter) -> None:
    more = field("timestamp_granularities[]", "word")
    for extra in ([], [field("stream", "true")]):
        answer = await router.upload(*asking("verbose_json", more, *extra))
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "timestamp_granularities[]"
