from vllm_router.observability.request_record import RequestRecord, Task


def test_an_engine_is_named_once_in_the_order_of_its_first_turn() -> None:
    record = RequestRecord("id", Task.TRANSCRIBE)
    for engine in ("b", "a", "b", "a", "c"):
        record.given_to(engine)
    assert record.engines == ["b", "a", "c"]


def test_two_stories_share_nothing() -> None:
    one, other = RequestRecord("1", Task.TRANSCRIBE), RequestRecord("2", Task.TRANSCRIBE)
    one.given_to("a")
    assert other.engines == []
