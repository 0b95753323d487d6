from collections.abc import Sequence

import pytest
from tests.discovery.following import Followed

from vllm_router.discovery.static import StaticDiscovery, static_specs
from vllm_router.scheduling.changes import Listing
from vllm_router.scheduling.engine import EngineId, EngineSpec

URLS = ["http://a:8000", "http://b:8000/"]


def test_urls_alone_make_engines_that_are_asked_for_their_models() -> None:
    assert static_specs(URLS) == (
        EngineSpec(EngineId("http://a:8000"), "http://a:8000"),
        EngineSpec(EngineId("http://b:8000"), "http://b:8000"),
    )


def test_the_other_flags_go_along_one_by_one() -> None:
    specs = static_specs(URLS, ["m1", " m2 "], ["transcription"] * 2, ["x", "y"])
    assert [(spec.models, spec.model_type, spec.label) for spec in specs] == [
        (("m1",), "transcription", "x"),
        (("m2",), "transcription", "y"),
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (([],), "--static-backends names no engine"),
        ((["localhost:8000"],), "--static-backends: .*http://"),
        ((["http://a", "http://A:80/"],), "--static-backends names http://a twice"),
        (
            (URLS, ["m"]),
            "--static-models has 1 value but --static-backends names 2 engines; give one for each",
        ),
        ((URLS[:1], ["m", "n"]), "--static-models has 2 values .* names 1 engine;"),
        ((URLS, [], ["transcription"]), "--static-model-types has 1"),
        ((URLS, [], [], ["x"]), "--static-model-labels has 1"),
        ((URLS, ["m", " "]), "--static-models has an empty value"),
        ((URLS, [], ["transcription", "chat"]), '--static-model-types: "chat" is not supported'),
    ],
)
def test_a_wrong_flag_is_named_in_one_sentence(flags: list[Sequence[str]], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        static_specs(*flags)
    assert "\n" not in str(caught.value)


async def test_the_listing_comes_once() -> None:
    source, seen = StaticDiscovery(static_specs(URLS)), Followed()
    async for change in source.changes():
        seen.take(change)
    assert seen.changes == [Listing(static_specs(URLS))]
    assert source.status.age_s(1e9) == 0.0
    assert repr(source) == "<StaticDiscovery engines=2>"
