import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from tests.discovery.test_kube_objects import JSON

from vllm_router.app.siblings import Siblings


async def answer_by(name: str, asked: list[dict[str, Any]], question: dict[str, Any]) -> bytes:
    asked.append(question)
    return f"{name} heard {question['ask']}".encode()


async def test_every_other_is_asked_and_answers(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    async with contextlib.AsyncExitStack() as stack:
        for index in range(3):
            await stack.enter_async_context(
                Siblings(tmp_path, index, 3).listening(
                    lambda q, index=index: answer_by(str(index), asked, q)
                )
            )
        answers = await Siblings(tmp_path, 1, 3).ask_all({"ask": "it"})
    assert answers == [b"0 heard it", b"2 heard it"]
    assert asked == [{"ask": "it"}] * 2


async def test_one_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    async with Siblings(tmp_path, 0, 3).listening(lambda q: answer_by("0", [], q)):
        assert await Siblings(tmp_path, 1, 3).ask_all({"ask": "it"}) == [b"0 heard it"]


async def test_one_that_does_not_answer_is_left_out(tmp_path: Path) -> None:
    async def never(question: dict[str, Any]) -> bytes:
        await asyncio.sleep(3600)
        return b""

    async with Siblings(tmp_path, 0, 2).listening(never):
        assert await Siblings(tmp_path, 1, 2).ask_all({"ask": "it"}) == []


async def test_rubbish_is_no_question_and_others_are_answered_after_it(tmp_path: Path) -> None:
    async with Siblings(tmp_path, 0, 2).listening(lambda q: answer_by("0", [], q)):
        for rubbish in (b"\n", b"{", b"", b"x" * 100_000):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "worker-0.sock")
            with contextlib.suppress(ConnectionError):
                writer.write(rubbish)
                writer.write_eof()
                assert await reader.read() == b""
            writer.close()
        assert await Siblings(tmp_path, 1, 2).ask_all({"ask": "it"}) == [b"0 heard it"]


async def test_a_socket_left_by_the_one_before_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "worker-0.sock").write_text("left behind")
    async with Siblings(tmp_path, 0, 2).listening(lambda q: answer_by("0", [], q)):
        assert await Siblings(tmp_path, 1, 2).ask_all({"ask": "it"}) == [b"0 heard it"]


async def test_a_long_answer_comes_whole(tmp_path: Path) -> None:
    async def long(question: dict[str, Any]) -> bytes:
        return json.dumps(["x" * 1_000_000]).encode()

    async with Siblings(tmp_path, 0, 2).listening(long):
        [answer] = await Siblings(tmp_path, 1, 2).ask_all({"ask": "it"})
    assert len(json.loads(answer)[0]) == 1_000_000


@pytest.mark.parametrize(
    "said", [b"", b"12", b"12\nshort", b"-1\n", b"x\n", b"9" * 5000 + b"\n", b"99999999999\n"]
)
async def test_an_answer_that_breaks_off_or_is_none_is_left_out(
    tmp_path: Path, said: bytes
) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(said)
        writer.close()

    async with await asyncio.start_unix_server(broken, tmp_path / "worker-0.sock"):
        assert await Siblings(tmp_path, 1, 2).ask_all({"ask": "it"}) == []


@given(JSON)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_any_json_is_a_question_or_refused(tmp_path: Path, question: Any) -> None:
    line = json.dumps(question).encode() + b"\n"
    async with Siblings(tmp_path, 0, 2).listening(lambda q: answer_by("0", [], q | {"ask": "x"})):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "worker-0.sock")
        writer.write(line)
        answer = await reader.read()
        writer.close()
    assert answer == (b"9\n0 heard x" if isinstance(question, dict) else b"")


async def test_an_answer_that_fails_for_a_fault_of_our_own_is_told_and_the_next_is_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[dict[str, Any]] = []
    told: list[Exception] = []

    async def broken_at_first(question: dict[str, Any]) -> bytes:
        if not asked:
            asked.append(question)
            raise ZeroDivisionError
        return await answer_by("0", asked, question)

    async with Siblings(tmp_path, 0, 2, told.append).listening(broken_at_first):
        assert await Siblings(tmp_path, 1, 2).ask_all({"ask": "it"}) == []
        assert await Siblings(tmp_path, 1, 2).ask_all({"ask": "it"}) == [b"0 heard it"]
    assert [type(error) for error in told] == [ZeroDivisionError]
    asked.clear()
    async with Siblings(tmp_path, 0, 2).listening(broken_at_first):
        assert await Siblings(tmp_path, 1, 2).ask_all({"ask": "it"}) == []
    assert "ZeroDivisionError" in caplog.text
