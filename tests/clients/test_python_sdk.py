import openai
import pytest
from tests.speech.recordings import Recording
from tests.speech.words import word_errors

MODEL = "openai/whisper-base"


@pytest.fixture
def client(router_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{router_url}/v1", api_key="any", max_retries=0, timeout=120)


def test_the_words_come_back(client: openai.OpenAI, recording: Recording) -> None:
    answer = client.audio.transcriptions.create(
        model=MODEL, file=(recording.name, recording.audio), language="en"
    )
    assert word_errors(recording.text, answer.text).wrong == 0


def test_the_name_hard_wired_in_most_programs_works(
    client: openai.OpenAI, recording: Recording
) -> None:
    answer = client.audio.transcriptions.create(
        model="whisper-1", file=(recording.name, recording.audio)
    )
    assert word_errors(recording.text, answer.text).wrong == 0


def test_text_is_a_string(client: openai.OpenAI, recording: Recording) -> None:
    answer = client.audio.transcriptions.create(
        model=MODEL, file=(recording.name, recording.audio), response_format="text"
    )
    assert isinstance(answer, str)
    assert not answer.startswith("{")
    assert word_errors(recording.text, answer).wrong == 0


def test_verbose_json_has_language_duration_and_segments(
    client: openai.OpenAI, recording: Recording
) -> None:
    answer = client.audio.transcriptions.create(
        model=MODEL,
        file=(recording.name, recording.audio),
        response_format="verbose_json",
        timestamp_granularities=["segment"],
    )
    assert answer.language in {"en", "english"}
    assert float(answer.duration) == pytest.approx(recording.duration_s, abs=0.1)
    assert answer.segments is not None
    heard = " ".join(segment.text for segment in answer.segments)
    assert word_errors(recording.text, heard).wrong == 0
    for sentence in recording.sentences:
        assert any(abs(segment.start - sentence.start_s) < 0.5 for segment in answer.segments)


@pytest.mark.parametrize("response_format", ["srt", "vtt"])
def test_subtitles_are_a_string_of_cues(
    client: openai.OpenAI, recording: Recording, response_format: str
) -> None:
    answer = client.audio.transcriptions.create(
        model=MODEL,
        file=(recording.name, recording.audio),
        response_format=response_format,  # type: ignore[call-overload]
    )
    assert isinstance(answer, str)
    assert answer.count(" --> ") >= len(recording.sentences)


def test_a_stream_gives_the_text_as_it_comes(client: openai.OpenAI, recording: Recording) -> None:
    deltas: list[str] = []
    finals: list[str] = []
    for event in client.audio.transcriptions.create(
        model=MODEL, file=(recording.name, recording.audio), stream=True
    ):
        if event.type == "transcript.text.delta":
            deltas.append(event.delta)
        elif event.type == "transcript.text.done":
            finals.append(event.text)
    assert len(deltas) > 1
    assert finals == ["".join(deltas)]
    assert word_errors(recording.text, finals[0]).wrong == 0


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_translations_come_back(client: openai.OpenAI, recording: Recording) -> None:
    answer = client.audio.translations.create(model=MODEL, file=(recording.name, recording.audio))
    assert word_errors(recording.text, answer.text).wrong == 0


def test_the_list_of_models_has_the_alias(client: openai.OpenAI) -> None:
    assert {MODEL, "whisper-1"} <= {model.id for model in client.models.list()}


def test_an_unknown_model_is_not_found_in_the_clients_own_terms(
    client: openai.OpenAI, recording: Recording
) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.audio.transcriptions.create(
            model="nobody-serves-this", file=(recording.name, recording.audio)
        )
    assert caught.value.type is not None
    assert caught.value.param == "model"
    assert caught.value.code is not None


async def test_the_async_client_streams_and_asks_side_by_side(
    router_url: str, recording: Recording
) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{router_url}/v1", api_key="any", max_retries=0, timeout=120
    ) as client:
        stream = await client.audio.transcriptions.create(
            model=MODEL, file=(recording.name, recording.audio), stream=True
        )
        answer = await client.audio.transcriptions.create(
            model=MODEL, file=(recording.name, recording.audio)
        )
        heard = [e.text async for e in stream if e.type == "transcript.text.done"]
    assert word_errors(recording.text, heard[0]).wrong == 0
    assert word_errors(recording.text, answer.text).wrong == 0
