"""Pieces of one audio and many engines; what clients get of it is tested end to end."""

import asyncio
import json

import pytest
from tests.end_to_end.test_long import talk
from tests.proxy.parrots import Heard, Reply, parrot, verbose
from tests.routers import MODEL, field, file, running_router, until

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


async def test_pieces_in_another_language_than_the_first_are_heard_again_in_its() -> None:
    async def says(heard: Heard) -> Reply:
        given = heard.fields.get("language")
        # The first takes its time, so that the others go without knowing.
        await asyncio.sleep(0.4 if heard.number == 0 else 0.0)
        found = given or ("de" if heard.number == 0 else "nl")
        return 200, verbose(f"{found} words", found)

    async with parrot(says) as url, running_router(url, engine_max_windows=16) as router:
        body = (await router.upload(*asking("verbose_json"))).json()
        assert body["language"] == "de"
        assert "nl" not in body["text"]
        assert body["text"].count("de words") == len(body["segments"])


async def test_what_speaks_of_the_whole_is_not_sent_with_pieces() -> None:
    seen: list[dict[str, str]] = []

    async def says(heard: Heard) -> Reply:
        seen.append(heard.fields)
        return 200, verbose("words")

    more = [
        field("stream", "true"),
        field("stream_include_usage", "true"),
        field("timestamp_granularities[]", "segment"),
        field("temperature", "0.2"),
        field("hotwords", "Straße"),
    ]
    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(*asking("json", *more))
        assert answer.status_code == 200
    for fields in seen:
        assert fields["temperature"] == "0.2"
        assert fields["hotwords"] == "Straße"
        assert fields["model"] == MODEL
        assert "stream_include_usage" not in fields
        assert fields.get("stream", "false") == "false"


async def test_without_a_model_in_the_form_pieces_have_none_either() -> None:
    seen: list[dict[str, str]] = []

    async def says(heard: Heard) -> Reply:
        seen.append(heard.fields)
        return 200, verbose("words")

    async with parrot(says) as url, running_router(url) as router:
        assert (await router.upload(file(TALK))).status_code == 200
    assert all("model" not in fields for fields in seen)


async def test_what_is_no_transcript_counts_against_its_engine_and_is_heard_by_another() -> None:
    async def rubbish(heard: Heard) -> Reply:
        return 200, ["no transcript"]

    async def says(heard: Heard) -> Reply:
        return 200, verbose("words")

    async with (
        parrot(rubbish) as bad,
        parrot(says) as good,
        running_router(bad, good, routing_logic="roundrobin") as router,
    ):
        answer = await router.upload(*asking("json"))
        assert answer.status_code == 200
        metrics = await router.metrics()
        assert metrics[f'vllm_router_attempts_total{{engine="{bad}",outcome="reset"}}'] >= 1


async def test_a_fleet_that_is_gone_for_a_moment_is_waited_for() -> None:
    """An hour of work must not die of a second's trouble."""
    failures = 4

    async def says(heard: Heard) -> Reply:
        nonlocal failures
        if heard.number > 0 and failures:
            failures -= 1
            return 503, {"error": "restarting"}
        return 200, verbose("words")

    async with parrot(says) as url, running_router(url, engine_max_windows=1) as router:
        assert (await router.upload(*asking("json"))).status_code == 200
        assert failures < 4


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


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_refusal_is_the_engines_own(is_stream: bool) -> None:
    async def says(heard: Heard) -> Reply:
        return 400, {"error": {"message": "no such language", "code": "x", "type": "y"}}

    more = [field("stream", "true")] if is_stream else []
    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(*asking("json", *more))
        if answer.status_code == 400:
            assert answer.json()["error"]["message"] == "no such language"
        else:
            assert answer.status_code == 200
            last = json.loads(answer.text.strip().splitlines()[-1].removeprefix("data: "))
            assert "no such language" in last["error"]["message"]


LOOP = "each piece goes to a free each piece goes to a free each piece goes to a free engine"


#: Four pieces of three sentences each.
SENTENCES = talk(92.4)


async def test_a_piece_in_which_the_engine_goes_round_in_circles_is_heard_again_in_halves() -> None:
    pieces: list[bytes] = []

    async def says(heard: Heard) -> Reply:
        pieces.append(heard.audio)
        seconds = (len(heard.audio) - 44) / 32_000
        # What is long confuses it.
        return 200, verbose(LOOP if seconds > 20 else f"part {len(pieces)}", end_s=2.0)

    async with parrot(says) as url, running_router(url, engine_max_windows=1) as router:
        body = (
            await router.upload(
                field("model", MODEL), field("response_format", "verbose_json"), file(SENTENCES)
            )
        ).json()
        metrics = (await router.client.get("/metrics")).text
    assert "engine" not in body["text"]
    whole = [piece[44:] for piece in pieces if len(piece) > 44 + 20 * 32_000]
    halves = [piece[44:] for piece in pieces if len(piece) <= 44 + 20 * 32_000]
    assert len(whole) == 4
    assert b"".join(sorted(halves, key=SENTENCES.index)) == b"".join(
        sorted(whole, key=SENTENCES.index)
    )
    starts = [segment["start"] for segment in body["segments"]]
    assert starts == sorted(set(starts))
    assert body["duration"] == pytest.approx(92.4, abs=0.001)
    assert 'vllm_router_pieces_total{outcome="halved"} 4.0' in metrics


async def test_a_loop_that_cannot_be_helped_stays_as_it_was_heard() -> None:
    asked = 0

    async def says(heard: Heard) -> Reply:
        nonlocal asked
        asked += 1
        seconds = (len(heard.audio) - 44) / 32_000
        return (200 if seconds > 20 else 400), verbose(LOOP, end_s=2.0)

    async with parrot(says) as url, running_router(url, engine_max_windows=1) as router:
        answer = await router.upload(field("model", MODEL), file(SENTENCES))
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"].count(LOOP) == 4
    assert asked == 8


async def test_a_refusal_that_breaks_off_leaves_no_engine_charged() -> None:
    async def says(heard: Heard) -> Reply:
        return 200, b"HTTP/1.1 400 X\r\nContent-Length: 9000000\r\n\r\n" + bytes(5_000_000)

    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(field("model", MODEL), file(SENTENCES))
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "engine_failed"
        (engine,) = router.router.dispatcher.fleet.engines()
        await until(lambda: engine.in_flight == 0)


async def test_an_engine_that_only_ever_loops_is_not_asked_for_ever() -> None:
    asked = 0

    async def says(heard: Heard) -> Reply:
        nonlocal asked
        asked += 1
        return 200, verbose(LOOP, end_s=1.0)

    async with parrot(says) as url, running_router(url, engine_max_windows=8) as router:
        assert (await router.upload(field("model", MODEL), file(SENTENCES))).status_code == 200
    assert asked <= 4 * 5
