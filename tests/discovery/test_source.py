from vllm_router.discovery.source import DiscoveryStatus


def test_before_the_first_picture_the_age_is_that_of_the_source() -> None:
    status = DiscoveryStatus("x", started_at=100.0)
    assert status.age_s(130.0) == 30.0
    status.synced(130.0)
    assert status.age_s(131.0) == 1.0
    assert status.age_s(129.0) == 0.0


def test_a_fixed_source_does_not_age() -> None:
    assert DiscoveryStatus("flags", 0.0, is_fixed=True).age_s(1e9) == 0.0


def test_only_a_change_of_fortune_is_news() -> None:
    status = DiscoveryStatus("x", 0.0)
    assert not status.recovered()
    assert status.failed("no route")
    assert not status.failed("no route")
    assert status.failed("no name")
    assert (status.last_error, status.failures) == ("no name", 3)
    assert status.recovered()
    assert not status.recovered()
    assert (status.last_error, status.failures) == (None, 0)
