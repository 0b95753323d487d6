"""What is written in C: it reads what the parsers read, as they read it, or leaves it to them."""

import contextlib
import gc
import random
import sys
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz import in_c
from tests.fuzz.targets import mutated

from vllm_router.formats import quick

KINDS = {"python": quick, "C": in_c.built()}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def either(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@pytest.fixture
def in_c_only() -> ModuleType:
    return in_c.built()


def head(*lines: bytes, first: bytes = b"POST /x HTTP/1.1") -> bytes:
    return b"\r\n".join([first, *lines]) + b"\r\n\r\n"


CURL = head(
    b"Host: 127.0.0.1:8000", b"User-Agent: curl/7.88.1", b"Accept: */*", b"Content-Length: 98600",
    b"Content-Type: multipart/form-data; boundary=------------------------d74496d66958873e",
)  # fmt: skip
OPENAI = head(
    b"Host: 127.0.0.1:8000", b"Accept-Encoding: gzip, deflate", b"Connection: keep-alive",
    b"Accept: application/json", b"User-Agent: OpenAI/Python 2.8.1", b"X-Stainless-Lang: python",
    b"x-stainless-read-timeout: 600", b"Authorization: Bearer sk-1", b"Content-Length: 12",
    b"Content-Type: multipart/form-data; boundary=cb5a", b"x-request-id: a-1",
    first=b"POST /v1/audio/transcriptions HTTP/1.1",
)  # fmt: skip
UVICORN = (
    b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 10:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-length: 2\r\ncontent-type: application/json\r\n\r\n{}"
)
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nw\r\n--b\r\n'
    b'Content-Disposition: form-data; name="file"; filename="\xc3\xa4.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\n\r\n--x\r\n--b--\r\n"
)


def test_what_clients_and_engines_send_is_read_without_the_parser(in_c_only: ModuleType) -> None:
    for request in (CURL, OPENAI, head(b"host:a", first=b"GET / HTTP/1.1"), *in_c.SEEDS[:2]):
        assert in_c.check_request(in_c_only, request)
    for answer in (UVICORN, *in_c.SEEDS[2:4]):
        assert in_c.check_answer(in_c_only, answer)
    for form in (FORM, in_c.SEEDS[4]):
        assert in_c.check_form(in_c_only, form)


def test_a_name_is_lowered_and_its_first_value_counts(in_c_only: ModuleType) -> None:
    raw = head(b"HOST: a", b"X-1: first", b"x-1: Second", first=b"GET /a?b HTTP/1.1")
    headers = [(b"host", b"a"), (b"x-1", b"first"), (b"x-1", b"Second")]
    first = {b"host": b"a", b"x-1": b"first"}
    assert in_c_only.usual_request(raw) == ("GET", b"/a?b", headers, first, None, True)


UNUSUAL = {
    "no host": head(),
    "two hosts": head(b"Host: a", b"Host: b"),
    "two lengths": head(b"Host: a", b"Content-Length: 1", b"Content-Length: 1"),
    "a length that is no number": head(b"Host: a", b"Content-Length: +1"),
    "a length of 16 digits": head(b"Host: a", b"Content-Length: 1000000000000000"),
    "chunks": head(b"Host: a", b"Transfer-Encoding: chunked"),
    "an upgrade": head(b"Host: a", b"Upgrade: websocket"),
    "options of the connection": head(b"Host: a", b"Connection: close, te"),
    "a blank before the colon": head(b"Host : a"),
    "two blanks behind it": head(b"Host:  a"),
    "a blank behind the value": head(b"Host: a "),
    "a tab": head(b"Host:\ta"),
    "no value": head(b"Host: a", b"X:"),
    "a folded line": head(b"Host: a", b" b"),
    "a line feed alone": b"GET / HTTP/1.1\nHost: a\n\n",
    "a carriage return alone": head(b"Host: a\rX: b"),
    "a NUL": head(b"Host: a\0"),
    "a byte above ASCII": head(b"Host: \xe9"),
    "an underscore in a name": head(b"Host: a", b"X_Y: 1"),
    "a name of 65 bytes": head(b"Host: a", b"x" * 65 + b": 1"),
    "49 headers": head(b"Host: a", *[b"X: y"] * 48),
    "another method": head(b"Host: a", first=b"PUT / HTTP/1.1"),
    "another version": head(b"Host: a", first=b"GET / HTTP/1.0"),
    "a target that is no path": head(b"Host: a", first=b"GET http://a/ HTTP/1.1"),
    "a fragment": head(b"Host: a", first=b"GET /#a HTTP/1.1"),
    "a body behind it": head(b"Host: a") + b"x",
    "nothing": b"",
}


@pytest.mark.parametrize("raw", UNUSUAL.values(), ids=UNUSUAL)
def test_a_request_that_is_not_usual_is_left_to_the_parser(either: ModuleType, raw: bytes) -> None:
    assert either.usual_request(raw) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"200", b"204"),
        (b"200", b"304"),
        (b"200", b"100"),
        (b"200", b"600"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"application/json", b"text/event-stream"),
        (b"application/json", b"Text/Event-Stream; charset=utf-8"),
        (b"content-length: 2", b"content-length: 1"),
        (b"content-length: 2", b"content-length: 3"),
        (b"content-length: 2", b"transfer-encoding: chunked"),
        (b"content-length: 2", b"content-length: 2\r\nconnection: close"),
        (b"content-length: 2", b"content-length: 2\r\ntrailer: x"),
        (b"content-length: 2\r\n", b""),
    ],
)
def test_an_answer_that_is_not_usual_is_left_to_the_parser(
    either: ModuleType, old: bytes, new: bytes
) -> None:
    assert old in UVICORN
    assert either.usual_answer(UVICORN.replace(old, new)) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'--b\r\nContent-Disposition: form-data; name="model"', b"preamble\r\n--b\r\n"),
        (b"--b--\r\n", b"--b--"),
        (b"--b--\r\n", b"--b--\r\nepilogue"),
        (b"--b--\r\n", b"--b\r\n"),
        (b"form-data", b"attachment"),
        (b'name="model"', b"name=model"),
        (b'name="model"', b'name="mo\\"del"'),
        (b'name="model"', b'name="model"; x=y'),
        (b"Content-Type: audio/wav", b"Content-Type:audio/wav"),
        (b"Content-Type: audio/wav", b"Content-Length: 5"),
        (b"\r\n\r\nw\r\n", b"\r\nw\r\n"),
        (b"w\r\n", b"w" * (2**20 + 1) + b"\r\n"),
    ],
)
def test_a_form_that_is_not_usual_is_left_to_the_reader(
    either: ModuleType, old: bytes, new: bytes
) -> None:
    assert old in FORM
    changed = FORM.replace(old, new, 1)
    assert either.usual_parts(changed, b"\r\n--b", 0, len(changed)) is None


def test_no_more_parts_are_read_than_a_form_may_have(in_c_only: ModuleType) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
    for count, is_read in ((256, True), (257, False)):
        form = part * count + b"--b--\r\n"
        assert (in_c_only.usual_parts(form, b"\r\n--b", 0, len(form)) is not None) is is_read


@given(st.sampled_from(in_c.SEEDS), st.integers(0, 2**32))
def test_what_is_read_is_what_the_parsers_read(seed: bytes, chance: int) -> None:
    in_c.check(in_c.built(), mutated(seed, random.Random(chance)))


@given(st.binary(max_size=200))
def test_any_bytes_may_come(data: bytes) -> None:
    in_c.check(in_c.built(), data)


#: With half surrogate pairs, which JSON can bring.
TEXT = st.text(st.characters(exclude_categories=()))


@given(
    TEXT,
    st.lists(
        st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(0, 1e11), TEXT),
        max_size=9,
    ),
)
def test_lines_are_the_same(start: str, values: list[object]) -> None:
    fields = tuple(word for i, value in enumerate(values) for word in (f"n{i}", value))
    assert in_c.built().log_line(start, fields) == quick.log_line(start, fields)


def test_a_line_tells_what_there_is(either: ModuleType) -> None:
    fields = ("a", "é", "b", None, "c", 7, "d", 0.00006, "e", 12.0, "f", -1.5, "g", 1e300)
    line = either.log_line("start", fields)
    assert line == "start a=é c=7 d=0.0001 e=12.0000 f=0.0000 g=1000000000000.0000\n"
    assert either.log_line("start", ("a", None)) == "start\n"
    assert either.log_line("start", ("model", "whisper-\ud800")) == "start model=whisper-?\n"
    assert either.log_line("x" * 5000, ("a", "y" * 5000)) == f"{'x' * 5000} a={'y' * 5000}\n"


@given(st.integers(0, 2**32))
def test_heads_are_the_same(seed: int) -> None:
    in_c.tell(in_c.built(), random.Random(seed))


LONG = 3 * 4096


@given(
    st.integers(0, 2**32),
    st.integers(1, 80),
    st.integers(0, LONG),
    st.integers(0, LONG),
    st.lists(st.integers(0, LONG), max_size=4),
    st.sampled_from([2, 4, 256]),
)
def test_it_finds_what_python_finds(
    seed: int, size: int, start: int, end: int, places: list[int], kinds: int
) -> None:
    chance = random.Random(seed)
    data = bytearray(chance.choices(range(kinds), k=LONG))
    needle = bytes(chance.choices(range(kinds), k=size))
    for place in places:
        data[place : place + size] = needle
    start, end = min(start, end), max(start, min(end, len(data)))
    end = min(end, len(data))
    expected = data.find(needle, start, end)
    assert in_c.built().find(data, needle, start, end) == expected
    assert in_c.built().find(bytes(data), needle, start, end) == expected


@pytest.mark.parametrize("at", [0, 1, LONG - 9, LONG - 8])
def test_the_edges_count_and_what_is_behind_them_does_not(either: ModuleType, at: int) -> None:
    data = bytearray(LONG)
    data[at : at + 8] = b"boundary"
    assert either.find(data, b"boundary", 0, LONG) == at
    assert either.find(data, b"boundary", at, at + 8) == at
    assert either.find(data, b"boundary", 0, at + 7) == -1
    assert either.find(data, b"boundary", at + 1, LONG) == -1
    assert either.copied(data, at, at + 8) == b"boundary"


def test_the_memory_may_be_resized_afterwards(either: ModuleType) -> None:
    data = bytearray(LONG)
    assert either.find(data, b"x", 0, LONG) == -1
    assert either.copied(data, 0, 5) == bytes(5)
    data += b"more"


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("find", (bytearray(4), b"x", -1, 3)),
        ("find", (bytearray(4), b"x", 0, 5)),
        ("find", (bytearray(4), b"x", 3, 2)),
        ("find", (bytearray(4), "x", 0, 1)),
        ("find", (memoryview(b"abcd"), b"x", 0, 1)),
        ("find", (b"abcd", b"x", 0)),
        ("find", (b"abcd", b"x", "0", 1)),
        ("copied", (b"abcd", 0, 5)),
        ("copied", (b"abcd", 2**70, 2**71)),
        ("copied", (b"abcd", 0)),
        ("log_line", ("a", ["b", 1])),
        ("log_line", ("a", ("b",))),
        ("log_line", ("a", ("b", 2**70))),
        ("log_line", ("a", ("b", object()))),
        ("usual_answer", ("text",)),
        ("usual_request", (bytearray(b"GET"),)),
        ("usual_parts", (b"abcd", "--b", 0, 4)),
        ("usual_parts", (b"abcd", b"\r\n--b", 0, 5)),
        ("write_head", (b"a", [(b"b", "c")], b"")),
        ("write_head", (b"a", [b"b"], b"")),
        ("write_head", (b"a", ((b"b", b"c"),), b"")),
    ],
)
def test_what_it_does_not_take_is_an_error_and_not_a_crash(
    in_c_only: ModuleType, call: str, arguments: tuple[object, ...]
) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        getattr(in_c_only, call)(*arguments)


def test_nothing_is_left_behind(in_c_only: ModuleType) -> None:
    rng = random.Random(1)
    inputs = [*in_c.SEEDS * 20, *(mutated(seed, rng) for seed in in_c.SEEDS for _ in range(100))]

    def once() -> int:
        for data in inputs:
            in_c_only.usual_request(data)
            in_c_only.usual_answer(data)
            in_c_only.usual_parts(data, b"\r\n--b", 0, len(data))
            in_c_only.find(data, b"ab", 0, len(data))
            in_c_only.copied(data, 0, len(data))
            in_c_only.write_head(data, [(b"a", data)], b"x")
            in_c_only.log_line(
                "a", ("b", 1.5, "c", None, "d", 12345678, "e", "é" * 600, "f", "\ud800")
            )
            for wrong in ((data, [(b"a", "b")], b"x"), ("a", ("b", object()))):
                with contextlib.suppress(TypeError):
                    (in_c_only.write_head if len(wrong) == 3 else in_c_only.log_line)(*wrong)
        gc.collect()
        return sys.getallocatedblocks()

    once()
    before = once()
    # Of 600 inputs: one object lost in each tenth would show.
    assert once() - before < 60


def test_no_byte_is_touched_that_is_not_its_own() -> None:
    tried, read = in_c.sanitized(2)
    assert tried > 500
    assert read > tried // 100
