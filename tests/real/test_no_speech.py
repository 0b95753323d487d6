"""Recordings in which nobody speaks: no word comes back, and noise and silence reach no engine."""

import pytest
from tests.real.ask import transcribe, windows_spent
from tests.speech.people import Pause, no_speech
from tests.speech.words import normal_words


@pytest.mark.parametrize("kind", ["silence", "noise", "music", "phone"])
@pytest.mark.parametrize("response_format", ["verbose_json", "text"])
def test_where_nobody_speaks_there_are_no_words(
    router_url: str, kind: Pause, response_format: str
) -> None:
    before = windows_spent(router_url)
    answer = transcribe(router_url, no_speech(kind, 150.0), response_format=response_format)
    said = answer.json()["text"] if response_format == "verbose_json" else answer.text
    assert normal_words(said) == []
    if kind in ("silence", "noise"):
        assert windows_spent(router_url) == before
