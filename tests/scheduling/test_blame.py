"""Who is to blame for refusals: claims that hold for whatever engines answer."""

import math

from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.blame import Agreements, BlameRules, RefusalRecord, rest_s

RULES = BlameRules()


def test_an_engine_that_served_well_of_late_has_a_vote() -> None:
    record = RefusalRecord()
    record.bad(100.0)
    assert record.is_credible(99.0, 100.0, RULES.recent_s)
    assert record.is_credible(None, 100.0, RULES.recent_s), "it was never asked before"
    assert not record.is_credible(90.0, 100.0, RULES.recent_s), "it may have changed since"


def test_an_engine_that_refuses_one_after_the_other_has_none() -> None:
    record = RefusalRecord()
    record.bad(100.0)
    record.bad(100.1)
    assert not record.is_credible(99.9, 100.1, RULES.recent_s)
    # Another engine that agrees may be broken as well.
    record.explained()
    record.explained()
    assert record.unexplained == 0
    assert not record.is_credible(99.9, 100.1, RULES.recent_s)
    record.good()
    record.bad(101.0)
    assert record.is_credible(100.5, 101.0, RULES.recent_s)


def test_a_crash_that_cuts_many_calls_off_is_one_event() -> None:
    record = RefusalRecord()
    assert record.is_death(10.0, 20.0)
    assert record.is_death(19.9, 20.0)
    assert not record.is_death(20.5, 21.0), "it took a call after it had cut others off"
    assert record.is_death(100.0, 101.0), "that was long ago"
    record.good()
    assert record.is_death(102.0, 103.0)


def test_one_vote_is_enough_once_engines_agreed_several_times() -> None:
    agreements = Agreements(RULES)
    for number in range(4):
        assert not agreements.are_usual(400, 100.0 + number)
        agreements.note(400, 100.0 + number)
    assert agreements.are_usual(400, 104.0)
    assert not agreements.are_usual(500, 103.0)
    assert not agreements.are_usual(400, 1000.0)
    agreements.forget(400)
    assert not agreements.are_usual(400, 103.0)


@given(st.integers(1, 1000), st.booleans())
def test_an_engine_in_a_row_of_refusals_needs_a_second_one(count: int, is_usual: bool) -> None:
    needed = RULES.votes_needed(is_usual=is_usual, count=count)
    assert needed == (1 if is_usual and count < RULES.doubted_after else RULES.votes)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["good", "bad", "late", "explained"]), st.floats(0, 10)), max_size=60
)


@given(EVENTS)
def test_a_record_counts_since_the_last_good_answer(events: list[tuple[str, float]]) -> None:
    record, now = RefusalRecord(), 0.0
    since: list[tuple[str, float]] = []
    for what, pause_s in events:
        now += pause_s
        if what == "good":
            record.good()
            since.clear()
        elif what == "explained":
            record.explained()
        else:
            record.bad(now, is_late=what == "late")
            since.append((what, now))
        assert record.count == len(since)
        assert 0 <= record.unexplained <= record.count
        assert record.since == (since[0][1] if since else -math.inf)
        assert record.are_late == all(each == "late" for each, _ in since)


@given(st.lists(st.tuples(st.integers(100, 999), st.floats(0, 5)), max_size=200))
def test_agreements_are_bounded_however_many_statuses_there_are(
    noted: list[tuple[int, float]],
) -> None:
    agreements, now = Agreements(RULES), 0.0
    for status, pause_s in noted:
        now += pause_s
        agreements.note(status, now)
    assert sum(agreements.are_usual(status, now) for status in range(100, 1000)) <= 8


class World:
    """Engines of which some refuse everything, and uploads of which some are broken."""

    def __init__(self, engines: int, holes: int) -> None:
        self.records = [RefusalRecord() for _ in range(engines)]
        self.good_at: list[float | None] = [0.0] * engines
        self.agreements = Agreements(RULES)
        self.holes = holes
        self.now = 0.0
        self.calls = 0

    def upload(self, order: list[int], *, is_broken: bool) -> bool:
        """Ask engines in turn; return whether the client is shown a refusal."""
        votes, asked = 0, []
        for engine in order:
            self.calls += 1
            record = self.records[engine]
            if not is_broken and engine >= self.holes:
                record.good()
                self.good_at[engine] = self.now
                if asked:
                    self.agreements.forget(400)
                return False
            record.bad(self.now)
            asked.append(engine)
            is_usual = self.agreements.are_usual(400, self.now)
            needed = RULES.votes_needed(is_usual=is_usual, count=record.count)
            is_credible = record.is_credible(self.good_at[engine], self.now, RULES.recent_s)
            votes += int(needed == 1 or is_credible)
            if votes >= needed:
                break
        if len(asked) > 1:
            self.agreements.note(400, self.now)
        return True


@given(st.data(), st.integers(1, 3), st.integers(4, 8))
def test_broken_engines_cost_at_most_one_good_upload_and_none_after_three_seconds(
    data: st.DataObject, holes: int, engines: int
) -> None:
    world = World(engines, min(holes, engines // 2))
    lost = []
    for _ in range(60):
        world.now += data.draw(st.floats(0.0, 1.0))
        order = data.draw(st.permutations(range(engines)))
        if world.upload(order, is_broken=False):
            lost.append(world.now)
    assert len(lost) <= 1
    assert all(at <= RULES.recent_s for at in lost)


@given(st.data())
def test_broken_uploads_do_not_double_the_load(data: st.DataObject) -> None:
    """Half of all uploads are broken, in any order that is even enough."""
    world = World(4, 0)
    for number in range(400):
        world.now += 0.01
        order = data.draw(st.permutations(range(4))) if number % 20 == 0 else [0, 1, 2, 3]
        turn = number % 4
        order = order[turn:] + order[:turn]
        assert world.upload(order, is_broken=number % 8 < 4) == (number % 8 < 4)
    assert world.calls <= 1.5 * 400


@given(st.none() | st.floats(allow_nan=True), st.integers(1, 10_000))
def test_a_rest_is_bounded_and_grows(asked_s: float | None, rests: int) -> None:
    lasts_s = rest_s(asked_s, rests, 30.0)
    assert 1.0 <= lasts_s <= 30.0
    assert lasts_s >= min(30.0, 2.0 ** min(rests - 1, 30))
    if asked_s is not None and asked_s >= 1.0:
        assert lasts_s >= min(30.0, asked_s)
