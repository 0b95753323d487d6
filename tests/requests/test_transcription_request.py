from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.routers import BOUNDARY, field, file, form

from vllm_router.audio.bitrate import BitrateBook
from vllm_router.audio.length import LengthHint
from vllm_router.audio.wav import pcm16_wav, silence
from vllm_router.errors import BadRequest, MissingField, NoEngineReady, UnknownModel
from vllm_router.observability.request_record import Task
from vllm_router.requests.transcription_request import (
    TranscriptionRequest,
    read_transcription_request,
)
from vllm_router.spool.multipart import FormReader
from vllm_router.spool.upload import Spool

AUDIO = silence(2.5)


@pytest.fixture(scope="module")
def spool() -> Iterator[Spool]:
    spool = Spool(None, 2**26)
    yield spool
    spool.close()


def read(
    spool: Spool,
    *parts: bytes,
    models: tuple[str, ...] = ("m",),
    aliases: Mapping[str, str] | None = None,
) -> TranscriptionRequest:
    body = form(*parts)
    reader = FormReader(BOUNDARY)
    upload = spool.upload()
    try:
        for block, start, end in upload.append(body):
            reader.feed(block, start, end)
        return read_transcription_request(
            Task.TRANSCRIBE, reader.finish(), upload, models, aliases or {}, BitrateBook()
        )
    finally:
        upload.close()


def test_length_and_kind_are_read_from_the_container(spool: Spool) -> None:
    request = read(spool, field("model", "m"), file(AUDIO))
    assert (request.model, request.asked_model) == ("m", "m")
    assert (request.hint, request.measured_s, request.kind) == (LengthHint(2.5), 2.5, "wav")


@given(st.floats(0.01, 3), st.sampled_from([8000, 16000, 44100]))
def test_every_wav_has_its_true_length(spool: Spool, seconds: float, rate_hz: int) -> None:
    request = read(spool, file(pcm16_wav(bytes(2 * int(seconds * rate_hz)), rate_hz)))
    assert request.measured_s == pytest.approx(int(seconds * rate_hz) / rate_hz)


def test_a_length_that_no_header_tells_is_estimated(spool: Spool) -> None:
    request = read(spool, file(bytes(100_000)))
    assert request.hint.doubt is not None
    assert request.hint.seconds > 0
    assert request.measured_s is None


def test_an_alias_is_resolved_and_a_model_of_that_name_goes_before(spool: Spool) -> None:
    aliases = {"whisper-1": "m"}
    request = read(spool, field("model", " whisper-1 "), file(AUDIO), aliases=aliases)
    assert (request.model, request.asked_model) == ("m", "whisper-1")
    both = ("m", "whisper-1")
    request = read(spool, field("model", "whisper-1"), file(AUDIO), models=both, aliases=aliases)
    assert request.model == "whisper-1"


def test_the_only_model_need_not_be_named(spool: Spool) -> None:
    request = read(spool, file(AUDIO))
    assert (request.model, request.asked_model) == ("m", None)
    with pytest.raises(MissingField, match="m, n") as refused:
        read(spool, file(AUDIO), models=("m", "n"))
    assert refused.value.param == "model"


def test_an_alias_to_what_is_not_there_is_an_unknown_model(spool: Spool) -> None:
    with pytest.raises(UnknownModel, match="`a` does not exist; available: m, a"):
        read(spool, field("model", "a"), file(AUDIO), aliases={"a": "gone"})


def test_a_long_name_is_not_repeated_whole(spool: Spool) -> None:
    with pytest.raises(UnknownModel) as refused:
        read(spool, field("model", "x" * 10_000), file(AUDIO))
    assert len(refused.value.message) < 500


def test_before_any_engine_has_spoken_no_model_is_wrong(spool: Spool) -> None:
    with pytest.raises(NoEngineReady):
        read(spool, field("model", "m"), file(AUDIO), models=())


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([field("model", "m")], "no field 'file'"),
        ([field("file", "text")], "sent as text"),
        ([file(b"")], "empty"),
        ([file(AUDIO, name="audio")], "no field 'file'"),
    ],
)
def test_what_is_missing_is_said(spool: Spool, parts: list[bytes], says: str) -> None:
    with pytest.raises(MissingField, match=says) as refused:
        read(spool, *parts)
    assert refused.value.param == "file"


def test_of_several_files_the_last_counts_as_at_the_engine(spool: Spool) -> None:
    request = read(spool, file(silence(1.0)), file(silence(2.0)))
    assert request.measured_s == 2.0


@given(st.binary(max_size=300))
def test_no_bytes_can_do_worse_than_be_refused(spool: Spool, data: bytes) -> None:
    for head in (b"", b"RIFF\xff\xff\xff\xffWAVEfmt ", b"OggS", b"fLaC", b"ID3", b"\x1aE\xdf\xa3"):
        try:
            assert read(spool, file(head + data)).hint.seconds >= 0
        except BadRequest as refused:
            assert refused.message  # noqa: PT017


def test_fields_are_text_without_the_space_around(spool: Spool) -> None:
    request = read(
        spool, field("language", " de "), field("prompt", ""), field("x", b"\xff"), file(AUDIO)
    )
    assert request.text("language") == "de"
    assert request.text("prompt") is None
    assert request.text("absent") is None
    assert request.text("x") == "\ufffd"
