import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.formats.leading_space import StreamStart, without_leading_space

SPACE = " \t\n\r\x0b\x0c\xa0\u3000"
TEXTS = st.text(st.sampled_from(SPACE + 'ab:"\\{}text,'), max_size=12)
VALUES = st.recursive(
    TEXTS | st.none() | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "x", "segments"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def stripped(value):
    if isinstance(value, list):
        return [stripped(item) for item in value]
    if isinstance(value, dict):
        return {
            key: item.lstrip(SPACE) if key == "text" and isinstance(item, str) else stripped(item)
            for key, item in value.items()
        }
    return value


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_only_the_white_space_before_texts_goes(value, is_ascii, indent):
    body = json.dumps({"text": value}, ensure_ascii=is_ascii, indent=indent).encode()
    assert json.loads(without_leading_space(body)) == stripped({"text": value})


@pytest.mark.parametrize(
    ("body", "edited"),
    [
        (b'{"text":" Hello  there ","usage":{}}', b'{"text":"Hello  there ","usage":{}}'),
        (b'{"text":"Hello"}', b'{"text":"Hello"}'),
        (b'{"text" : "  "}', b'{"text" : ""}'),
        (b'{"x":"\\"text\\":\\" a"}', b'{"x":"\\"text\\":\\" a"}'),
        (b"no JSON", b"no JSON"),
        (b"", b""),
    ],
)
def test_the_bytes_of_an_answer(body, edited):
    assert without_leading_space(body) == edited


def events(*texts, key="content"):
    if key == "delta":
        objects = [{"type": "transcript.text.delta", "delta": text} for text in texts]
    else:
        objects = [{"choices": [{"delta": {"content": text}}]} for text in texts]
    return b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in objects)


@given(
    st.lists(TEXTS, max_size=6), st.sets(st.integers(0, 6)), st.sampled_from(["content", "delta"])
)
def test_a_stream_loses_the_white_space_before_its_first_word(texts, cuts, key):
    bounds = sorted({0, len(texts), *(cut for cut in cuts if cut < len(texts))})
    start = StreamStart()
    out = b""
    for begin, end in itertools.pairwise(bounds):
        out += start.edited(events(*texts[begin:end], key=key))
    said = "".join(
        event["delta"] if key == "delta" else event["choices"][0]["delta"]["content"]
        for event in (json.loads(line[6:]) for line in out.decode().splitlines() if line)
    )
    assert said == "".join(texts).lstrip(SPACE)


def test_a_stream_is_not_touched_behind_its_first_word():
    start = StreamStart()
    assert start.edited(events("", " ", " one")) == events("", "", "one")
    assert start.edited(events(" two")) == events(" two")
