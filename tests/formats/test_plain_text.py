import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.formats.plain_text import plain_text
from vllm_router.formats.transcript import read_transcript

USAGE = {"type": "duration", "seconds": 3}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b'{"text":" And so.","usage":{"type":"duration","seconds":3}}', "And so."),
        (b'{ "text" : "And so." }', "And so."),
        ('{"text":"Größe, 笑"}'.encode(), "Größe, 笑"),
        (b'{"text":""}', ""),
        # A parser's business.
        (b'{"text":"He said \\"no\\"."}', None),
        (b'{"text":"Gr\\u00f6\\u00dfe"}', None),
        (b'{"text":"<|en|>And so."}', None),
        (b'{"task":"transcribe","text":"And so."}', None),
        (b'{"text":"cut sho', None),
        (b'{"text":null}', None),
        (b'[{"text":"And so."}]', None),
        (b"And so.", None),
        (b"", None),
    ],
)
def test_the_text_is_found_in_answers_as_vllm_writes_them(answer: bytes, text: str | None) -> None:
    assert plain_text(answer) == text


@given(st.text(), st.booleans(), st.sampled_from([None, (",", ":")]))
def test_the_text_is_the_one_that_a_parser_finds(
    text: str, is_ascii: bool, separators: tuple[str, str] | None
) -> None:
    fields = {"text": text, "usage": USAGE}
    answer = json.dumps(fields, ensure_ascii=is_ascii, separators=separators)
    body = answer.encode("utf-8", "surrogatepass")
    found = plain_text(body)
    if found is not None and "\ufffd" not in found:
        assert found.split() == read_transcript(body).text.split()


@given(st.binary())
def test_any_bytes_are_looked_at(answer: bytes) -> None:
    plain_text(answer)
    plain_text(b'{"text":"' + answer)
