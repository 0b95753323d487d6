import pytest
from tests.fake_engine.forms import BOUNDARY, field, file, form
from tests.fake_engine.multipart import FormReader
from tests.fake_engine.options import RequestOptions, read_options

from vllm_router.local.errors import ApiError
from vllm_router.local.languages import LANGUAGES


def ask(*parts: bytes) -> RequestOptions:
    reader = FormReader(BOUNDARY, 1000)
    reader.feed(form(*parts))
    return read_options(reader.finish(), "transcribe", "served")


UPLOAD = file(b"audio")


def test_a_file_alone_is_enough() -> None:
    asked = ask(UPLOAD)
    assert (asked.model, asked.response_format, asked.language) == ("served", "json", None)
    assert (asked.is_streamed, asked.temperature, asked.prompt) == (False, 0.0, "")


def test_fields_may_come_before_and_after_the_file() -> None:
    asked = ask(
        field("language", b"de"),
        UPLOAD,
        field("stream", b"True"),
        field("stream_include_usage", b"1"),
        field("temperature", b"0.5"),
        field("prompt", b"hello"),
        field("of_a_later_release", b"x"),
    )
    assert (asked.language, asked.temperature, asked.prompt) == ("de", 0.5, "hello")
    assert asked.is_streamed
    assert asked.include_usage
    assert not asked.continuous_usage


@pytest.mark.parametrize(
    ("parts", "status", "param", "words"),
    [
        ([field("model", b"served")], 400, "body.file", "Field required"),
        ([field("file", b"text")], 400, "body.file", "Field required"),
        ([UPLOAD, field("model", b"nope")], 404, "model", "`nope` does not exist"),
        ([UPLOAD, field("response_format", b"srt")], 400, None, "Currently only support"),
        ([UPLOAD, field("response_format", b"vtt")], 400, None, "Currently only support"),
        ([UPLOAD, field("response_format", b"xml")], 400, "body.response_format", "Input should"),
        ([UPLOAD, field("stream", b"perhaps")], 400, "body.stream", "valid boolean"),
        ([UPLOAD, field("temperature", b"hot")], 400, "body.temperature", "valid number"),
        ([UPLOAD, field("language", b"xx")], 400, None, "Unsupported language: 'xx'"),
        (
            [UPLOAD, field("stream_include_usage", b"true")],
            400,
            "stream_include_usage",
            "only be defined when `stream=True`",
        ),
        (
            [UPLOAD, field("stream_continuous_usage_stats", b"true")],
            400,
            "stream_continuous_usage_stats",
            "only be defined when `stream=True`",
        ),
        (
            [UPLOAD, field("response_format", b"verbose_json"), field("stream", b"true")],
            400,
            None,
            "verbose_json format doesn't support streaming case",
        ),
    ],
)
def test_refusals_are_those_of_the_engine(
    parts: list[bytes], status: int, param: str | None, words: str
) -> None:
    with pytest.raises(ApiError) as caught:
        ask(*parts)
    error = caught.value
    assert (error.status, error.param) == (status, param)
    assert words in error.message
    assert error.body() == {
        "error": {"message": error.message, "type": error.kind, "param": param, "code": status}
    }


def test_whispers_languages_are_all_there() -> None:
    assert len(LANGUAGES) == len(set(LANGUAGES)) == 100
