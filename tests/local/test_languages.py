from vllm_router.local.languages import LANGUAGES


def test_whispers_languages_are_all_there() -> None:
    assert len(LANGUAGES) == len(set(LANGUAGES)) == 100
