import json
import logging
import sys
from collections.abc import Iterator

import pytest

from vllm_router.observability.logs import JsonFormatter, TextFormatter, set_up_logging


def record(message: str, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("vllm_router.x", level, "file.py", 1, message, args, None)


@pytest.fixture
def untouched() -> Iterator[None]:
    root, loop = logging.getLogger(), logging.getLogger("asyncio")
    before = root.handlers[:], root.level, loop.level
    switches = logging.logThreads, logging.logProcesses, logging.logMultiprocessing
    yield
    root.handlers[:], root.level, loop.level = before
    logging.logThreads, logging.logProcesses, logging.logMultiprocessing = switches


def test_text_is_time_level_and_message() -> None:
    line = TextFormatter().format(record("engine %s: %d", "a", 3, level=logging.WARNING))
    assert line.endswith(" WARNING engine a: 3")
    assert line[:4].isdigit()


def test_json_is_one_object_a_line() -> None:
    entry = record("two\nlines of %s", "Köln")
    entry.created, entry.msecs = 86400.25, 250
    text = JsonFormatter().format(entry)
    assert "\n" not in text
    assert json.loads(text) == {
        "time": "1970-01-02T00:00:00.250Z",
        "level": "info",
        "logger": "vllm_router.x",
        "message": "two\nlines of Köln",
    }


def test_json_holds_the_exception_too() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        entry = record("failed")
        entry.exc_info = sys.exc_info()
    line = json.loads(JsonFormatter().format(entry))
    assert "ValueError: why" in line["exception"]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(("kind", "first"), [("text", "2"), ("json", "{")])
def test_everything_goes_to_standard_error_in_one_form(
    kind: str, first: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging("warning", kind)
    logging.getLogger("somebody.else").info("too little")
    logging.getLogger("somebody.else").warning("enough")
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith(first)
    assert "enough" in line


@pytest.mark.usefixtures("untouched")
def test_the_loops_own_chatter_stays_out_even_of_debug() -> None:
    set_up_logging("debug", "text")
    assert logging.getLogger("asyncio").getEffectiveLevel() == logging.WARNING
    assert logging.getLogger("vllm_router").getEffectiveLevel() == logging.DEBUG
