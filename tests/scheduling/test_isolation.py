import math

from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.parts import ticket

from vllm_router.scheduling.isolation import IsolationQueue
from vllm_router.scheduling.work import Ticket

# When each ticket's time ends, and whether it leaves before.
WAITS = st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30)


def test_where_none_waits_nothing_is_due() -> None:
    apart = IsolationQueue()
    assert (len(apart), apart.until(), apart.first(9), apart.take_over(1e9)) == (0, None, [], [])


def test_a_ticket_that_does_not_wait_may_be_discarded() -> None:
    apart = IsolationQueue()
    apart.add(waiting := ticket(), 5.0)
    apart.discard(ticket())
    assert apart.first(9) == [waiting]


@given(WAITS, st.integers(0, 9), st.integers(0, 40))
def test_those_whose_time_ends_first_come_first(
    waits: list[tuple[int, bool]], now: int, count: int
) -> None:
    apart = IsolationQueue()
    made: list[tuple[float, Ticket]] = []
    for until, _ in waits:
        made.append((float(until), ticket()))
        apart.add(made[-1][1], float(until))
    for (_, leaves), (_, each) in zip(waits, made, strict=True):
        if leaves:
            apart.discard(each)
            apart.discard(each)
    stays = [pair for pair, (_, leaves) in zip(made, waits, strict=True) if not leaves]
    # Stable: of two whose time ends together the one that came first.
    in_order = sorted(stays, key=lambda pair: pair[0])
    assert len(apart) == len(stays)
    assert apart.until() == min((until for until, _ in stays), default=None)
    assert apart.first(count) == [each for _, each in in_order][:count]
    assert apart.take_over(float(now)) == [each for until, each in in_order if until <= now]
    assert apart.first(99) == [each for until, each in in_order if until > now]
    assert (apart.until() or math.inf) > now
