from vllm_router.proxy.facts import Task
from vllm_router.proxy.story import Story


def test_an_engine_is_named_once_in_the_order_of_its_first_turn() -> None:
    story = Story("id", Task.TRANSCRIBE)
    for engine in ("b", "a", "b", "a", "c"):
        story.given_to(engine)
    assert story.engines == ["b", "a", "c"]


def test_two_stories_share_nothing() -> None:
    one, other = Story("1", Task.TRANSCRIBE), Story("2", Task.TRANSCRIBE)
    one.given_to("a")
    assert other.engines == []
