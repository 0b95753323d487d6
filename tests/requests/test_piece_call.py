"""What engines are asked for pieces, and what becomes of their refusals."""

import json

import pytest
from tests.end_to_end.test_long import talk
from tests.requests.parrots import Heard, Reply, parrot, verbose
from tests.routers import MODEL, field, file, running_router, until

TALK = talk(100.0)


def asking(response_format: str, *more: bytes) -> list[bytes]:
    return [field("model", MODEL), field("response_format", response_format), *more, file(TALK)]


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


async def test_what_is_no_transcript_counts_against_its_engine_and_another_is_asked() -> None:
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


async def test_a_refusal_that_breaks_off_leaves_no_engine_charged() -> None:
    async def says(heard: Heard) -> Reply:
        return 200, b"HTTP/1.1 400 X\r\nContent-Length: 9000000\r\n\r\n" + bytes(5_000_000)

    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(field("model", MODEL), file(TALK))
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "engine_failed"
        (engine,) = router.router.dispatcher.fleet.engines()
        await until(lambda: engine.in_flight == 0)


@pytest.mark.parametrize("response_format", ["json", "text", "verbose_json", "srt", "vtt"])
async def test_every_piece_is_asked_for_as_json(response_format: str) -> None:
    seen: list[dict[str, str]] = []

    async def says(heard: Heard) -> Reply:
        seen.append(heard.fields)
        return 200, {"text": "words"}

    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(*asking(response_format))
        assert answer.status_code == 200, answer.text
    assert [fields["response_format"] for fields in seen] == ["json"] * 5
    assert not any("language" in fields for fields in seen)
    assert not any(name.startswith("timestamp") for fields in seen for name in fields)


async def test_times_of_words_are_the_engines_own() -> None:
    seen: list[dict[str, str]] = []

    async def says(heard: Heard) -> Reply:
        seen.append(heard.fields)
        return 200, verbose("so", words=[{"word": "so", "start": 0.5, "end": 0.75}])

    more = field("timestamp_granularities[]", "word")
    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(*asking("verbose_json", more))
        assert answer.status_code == 200, answer.text
    assert {fields["response_format"] for fields in seen} == {"verbose_json"}
    assert {fields["timestamp_granularities[]"] for fields in seen} == {"word"}


@pytest.mark.parametrize("given", [None, "fr"])
async def test_the_language_is_the_clients_or_none(given: str | None) -> None:
    seen: list[dict[str, str]] = []

    async def says(heard: Heard) -> Reply:
        seen.append(heard.fields)
        return 200, {"text": "words"}

    more = [] if given is None else [field("language", given)]
    async with parrot(says) as url, running_router(url) as router:
        assert (await router.upload(*asking("json", *more))).status_code == 200
    assert {fields.get("language") for fields in seen} == {given}


async def test_no_words_in_a_piece_are_no_failure_of_vllms() -> None:
    async def says(heard: Heard) -> Reply:
        if heard.number == 1:
            return 500, {"error": {"message": "tuple index out of range", "code": 500}}
        return 200, {"text": "words"}

    async with parrot(says) as url, running_router(url, engine_max_windows=1) as router:
        answer = await router.upload(*asking("json"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] == "words words words words"


async def test_a_piece_that_cannot_be_cut_is_asked_for_once_more_at_another_temperature() -> None:
    seen: list[dict[str, str]] = []

    async def says(heard: Heard) -> Reply:
        seen.append(heard.fields)
        words = "And so on, until nobody is left to say more of it."
        return 200, {"text": "" if heard.fields["temperature"] == "0" else words}

    # A single sentence of 7 s.
    parts = field("model", MODEL), field("temperature", "0"), file(talk(7.0))
    async with parrot(says) as url, running_router(url, split="always", verify=True) as router:
        answer = await router.upload(*parts)
    assert "nobody is left" in answer.json()["text"]
    assert [fields["temperature"] for fields in seen] == ["0", "0.2"]
