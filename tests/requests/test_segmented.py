"""What is made of the pieces of a long audio; whole requests are tested end to end."""

import json

import pytest
from tests.requests.parrots import Heard, Reply, parrot, verbose
from tests.routers import MODEL, RunningRouter, field, file, running_router

from vllm_router.audio.wav import silence

SETTINGS = {"skip_silence": False, "split_longer_than_s": 30}
AUDIO = silence(70.0)


async def says(upload: Heard) -> Reply:
    return 200, verbose(f"piece {upload.number}")


async def ask(router: RunningRouter, **fields: str) -> str:
    plain = [field(name, value) for name, value in {"model": MODEL, **fields}.items()]
    answer = await router.upload(*plain, file(AUDIO))
    assert answer.status_code == 200
    return answer.text


async def test_each_engine_that_heard_a_piece_is_named() -> None:
    async with (
        parrot(says) as a,
        parrot(says) as b,
        running_router(a, b, routing_logic="roundrobin", **SETTINGS) as router,
    ):
        answer = await router.upload(field("model", MODEL), file(AUDIO))
        assert set(answer.headers["x-engine-id"].split(",")) == {a, b}


async def test_the_length_is_that_of_the_decoded_audio() -> None:
    async with parrot(says) as engine, running_router(engine, **SETTINGS) as router:
        whole = json.loads(await ask(router, response_format="verbose_json"))
        assert whole["duration"] == pytest.approx(70.0, abs=0.001)
        assert whole["usage"] == {"type": "duration", "seconds": 70}
        assert [segment["id"] for segment in whole["segments"]] == list(
            range(len(whole["segments"]))
        )


async def test_an_engines_refusal_of_a_piece_is_the_clients_to_see() -> None:
    said = {"error": {"message": "no", "type": "BadRequestError", "param": None, "code": 400}}

    async def refuses(upload: Heard) -> Reply:
        return (200, verbose("so")) if upload.number else (400, said)

    async with parrot(refuses) as engine, running_router(engine, **SETTINGS) as router:
        answer = await router.upload(field("model", MODEL), file(AUDIO))
        assert (answer.status_code, answer.json()) == (400, said)


@pytest.mark.parametrize("form", ["json", "text", "srt", "vtt", "verbose_json"])
async def test_a_stream_of_pieces_ends_with_all_of_them(form: str) -> None:
    async with parrot(says) as engine, running_router(engine, **SETTINGS) as router:
        text = await ask(router, response_format=form, stream="true")
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
        deltas = [e["delta"] for e in events if e["type"] == "transcript.text.delta"]
        assert events[-1]["type"] == "transcript.text.done"
        assert events[-1]["text"] == "".join(deltas)
        assert len(deltas) >= 3
