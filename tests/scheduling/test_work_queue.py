import math
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vllm_router.scheduling.work_queue import QueueLane, Urgency, WorkQueue


@dataclass(eq=False)
class Work:
    """A piece of work that is told apart by being itself."""

    enqueued_at: float
    urgency: Urgency = Urgency.SHORT
    windows: int = 1
    audio_s: float = 30.0
    place: int = 0
    ahead: int = 0


def long(enqueued_at: float) -> Work:
    return Work(enqueued_at, Urgency.LONG)


def queue_of(*work: Work, ageing_s: float = 30.0, aged_share: int = 4) -> WorkQueue[Work]:
    queue: WorkQueue[Work] = WorkQueue(ageing_s, aged_share)
    for each in work:
        queue.add(each)
    return queue


def emptied(lane: QueueLane[Work]) -> list[Work]:
    out = []
    while (head := lane.head()) is not None:
        lane.remove(head)
        out.append(head)
    return out


def test_an_empty_queue_has_no_head_and_no_length() -> None:
    queue = queue_of()
    assert (len(queue), queue.windows, queue.audio_s) == (0, 0, 0.0)
    assert queue.short.head() is None
    assert queue.aged(1e9) is None


def test_work_of_the_same_moment_leaves_in_the_order_in_which_it_came() -> None:
    work = [Work(5.0) for _ in range(20)]
    assert emptied(queue_of(*work).short) == work


def test_a_repeat_that_keeps_its_time_of_arrival_comes_to_the_front() -> None:
    first, second, third = Work(1.0), Work(2.0), Work(3.0)
    queue = queue_of(first, second, third)
    assert queue.remove(first)
    queue.add(first)
    assert queue.short.head() is first


def test_work_that_is_in_already_is_not_counted_twice() -> None:
    work = Work(1.0)
    queue = queue_of(work, work)
    assert (len(queue), queue.windows) == (1, 1)
    assert emptied(queue.short) == [work]


def test_work_that_is_not_in_cannot_be_removed() -> None:
    work = Work(1.0)
    queue = queue_of()
    assert not queue.remove(work)
    queue.add(work)
    assert queue.remove(work)
    assert not queue.remove(work)


def test_work_that_comes_back_stands_in_the_queue_once_though_its_old_entry_remains() -> None:
    first, again = Work(1.0), Work(2.0)
    queue = queue_of(first, again)
    queue.remove(again)
    queue.add(again)
    assert emptied(queue.short) == [first, again]


def test_work_beside_the_line_is_counted_and_nothing_waits_behind_it() -> None:
    queue = queue_of()
    aside, other = Work(1.0), Work(2.0)
    queue.add_aside(aside)
    queue.add(other)
    queue.add(aside)
    assert (len(queue), queue.windows) == (2, 2)
    assert queue.short.head() is other
    queue.line_up(aside)
    queue.line_up(other)
    assert emptied(queue.short) == [aside, other]


def test_work_beside_the_line_may_leave() -> None:
    aside = Work(1.0)
    queue = queue_of()
    queue.add_aside(aside)
    assert queue.remove(aside)
    assert not queue.remove(aside)
    queue.line_up(aside)
    assert (len(queue), queue.short.head()) == (0, None)


def test_those_who_leave_from_the_middle_are_not_kept_in_memory() -> None:
    head = Work(0.0)
    queue = queue_of(head)
    for number in range(10_000):
        work = Work(1.0 + number)
        queue.add(work)
        queue.remove(work)
    # The one thing seen of the heap from outside: what it holds is bounded by what waits.
    assert len(queue.short._heap) <= 2 * len(queue) + 33
    assert emptied(queue.short) == [head]


def test_an_emptied_lane_has_no_rounding_errors_left() -> None:
    work = [Work(float(number), audio_s=0.1 * number) for number in range(100)]
    queue = queue_of(*work)
    for each in reversed(work):
        queue.remove(each)
    assert queue.audio_s == 0.0


def test_long_work_goes_before_short_work_once_it_has_aged() -> None:
    piece = long(0.0)
    queue = queue_of(piece, Work(0.0), aged_share=1)
    assert queue.aged(29.9) is None
    assert queue.aged(30.0) is piece


def test_of_four_decisions_at_most_one_goes_to_aged_long_work() -> None:
    queue = queue_of(long(0.0), Work(0.0))
    queue.took_aged()
    turns = []
    for _ in range(12):
        if queue.aged(100.0) is None:
            queue.took_short()
            turns.append("short")
        else:
            queue.took_aged()
            turns.append("long")
    assert turns == ["short", "short", "short", "long"] * 3


def test_while_no_short_work_waits_aged_long_work_need_not_take_turns() -> None:
    piece = long(0.0)
    queue = queue_of(piece)
    queue.took_aged()
    assert queue.aged(100.0) is piece


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from(Urgency)), max_size=50))
def test_each_lane_gives_its_own_work_out_by_time_of_arrival(
    arrivals: list[tuple[float, Urgency]],
) -> None:
    work = [Work(at, urgency) for at, urgency in arrivals]
    queue = queue_of(*work)
    for urgency, lane in ((Urgency.SHORT, queue.short), (Urgency.LONG, queue.long)):
        mine = [each for each in work if each.urgency is urgency]
        assert all(queue.lane(each) is lane for each in mine)
        assert emptied(lane) == sorted(mine, key=lambda each: each.enqueued_at)


class QueueBesideAList(RuleBasedStateMachine):
    """Whatever is added and removed, the queue says what a plain list of the work would say."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: WorkQueue[Work] = WorkQueue()
        self.inside: list[Work] = []
        self.outside: list[Work] = []
        self.aside: list[Work] = []

    @rule(
        at=st.integers(0, 9),
        urgency=st.sampled_from(Urgency),
        windows=st.integers(1, 40),
        count=st.integers(1, 40),
    )
    def arrive(self, at: int, urgency: Urgency, windows: int, count: int) -> None:
        for _ in range(count):
            work = Work(float(at), urgency, windows, 30.0 * windows)
            self.queue.add(work)
            self.inside.append(work)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        work = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        assert self.queue.remove(work)
        self.aside = [each for each in self.aside if each is not work]
        self.outside.append(work)

    @precondition(lambda self: self.outside)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        work = self.outside.pop(data.draw(st.integers(0, len(self.outside) - 1)))
        assert not self.queue.remove(work)
        self.queue.add(work)
        self.inside.append(work)

    @precondition(lambda self: self.outside)
    @rule(data=st.data())
    def come_back_beside_the_line(self, data: st.DataObject) -> None:
        work = self.outside.pop(data.draw(st.integers(0, len(self.outside) - 1)))
        self.queue.add_aside(work)
        self.inside.append(work)
        self.aside.append(work)

    @precondition(lambda self: self.aside)
    @rule(data=st.data())
    def line_up(self, data: st.DataObject) -> None:
        self.queue.line_up(self.aside.pop(data.draw(st.integers(0, len(self.aside) - 1))))

    @precondition(lambda self: len(self.inside) > 40)
    @rule()
    def nearly_all_leave(self) -> None:
        while len(self.inside) > 2:
            work = self.inside.pop()
            self.queue.remove(work)
            self.aside = [each for each in self.aside if each is not work]

    @invariant()
    def the_sums_are_those_of_what_waits(self) -> None:
        assert len(self.queue) == len(self.inside)
        assert self.queue.windows == sum(work.windows for work in self.inside)
        assert math.isclose(self.queue.audio_s, sum(work.audio_s for work in self.inside))

    @invariant()
    def each_head_is_the_one_that_came_first(self) -> None:
        for lane, urgency in (
            (self.queue.short, Urgency.SHORT),
            (self.queue.long, Urgency.LONG),
        ):
            mine = [work for work in self.inside if work.urgency is urgency]
            line = [work for work in mine if work not in self.aside]
            head = lane.head()
            assert (head is None) == (not line)
            assert lane.count == len(mine)
            if head is not None:
                assert head in line
                assert head.enqueued_at == min(work.enqueued_at for work in line)

    def teardown(self) -> None:
        for work in self.aside:
            self.queue.line_up(work)
        out = emptied(self.queue.short) + emptied(self.queue.long)
        assert set(map(id, out)) == set(map(id, self.inside))
        assert len(out) == len(self.inside)


TestQueueBesideAList = QueueBesideAList.TestCase


def of_file(ahead: int, enqueued_at: float) -> Work:
    return Work(enqueued_at, Urgency.LONG, ahead=ahead)


def paced(pace_s: float, *work: Work) -> WorkQueue[Work]:
    queue: WorkQueue[Work] = WorkQueue()
    queue.long.pace_s = pace_s
    queue.long.file_windows = 100
    for each in work:
        queue.add(each)
    return queue


def test_files_are_done_one_after_the_other_each_in_its_own_order() -> None:
    first, second, last = of_file(0, 1.0), of_file(1, 1.0), of_file(90, 1.0)
    later = of_file(0, 1.5)
    queue = paced(0.1, first, second, last, later)
    assert emptied(queue.long) == [first, second, last, later]


def test_what_lies_far_into_a_very_long_audio_gives_way_to_later_files() -> None:
    begin, middle, end = of_file(0, 1.0), of_file(110, 1.0), of_file(1000, 1.0)
    later = of_file(0, 3.0)
    assert emptied(paced(0.1, begin, middle, end, later).long) == [begin, middle, later, end]


def test_it_is_put_back_by_no_more_than_is_before_it() -> None:
    end, later = of_file(1000, 1.0), of_file(0, 92.0)
    assert emptied(paced(0.1, end, later).long) == [end, later]


def test_work_that_is_not_cut_counts_by_its_own_windows() -> None:
    whole, minutes = Work(1.0, Urgency.LONG, windows=200), of_file(0, 1.5)
    assert emptied(paced(0.1, whole, minutes).long) == [minutes, whole]


def test_long_work_outwaits_short_work_only_beyond_proportion() -> None:
    queue: WorkQueue[Work] = WorkQueue(proportion=0.25)
    queue.add(long(0.0))
    queue.add(Work(8.0))
    assert queue.outwaited(10.0, 1.0) is not None, "2 s are less than a quarter of 9"
    assert queue.outwaited(10.0, 3.0) is None, "but not of 7"
    assert queue.outwaited(12.0, 1.0) is None


def test_long_work_is_patient_for_so_many_times_a_window() -> None:
    queue: WorkQueue[Work] = WorkQueue(proportion=0.25, patience=3.0)
    queue.add(long(0.0))
    queue.add(Work(9.0))
    assert queue.outwaited(10.0, 1.0) is not None, "1 s is less than a quarter of 7"
    assert queue.outwaited(10.0, 2.5) is None, "but not of 2.5"


def test_late_long_work_goes_before_short_work_that_has_hardly_waited() -> None:
    queue: WorkQueue[Work] = WorkQueue(proportion=0.0, head_start=2.0, turn=0.5)
    queue.add(long(0.0))
    queue.add(Work(9.8))
    assert queue.outwaited(10.0, 1.0) is not None
    assert queue.outwaited(10.0, 6.0) is None, "10 s are less than two windows of 6 s"
    assert queue.outwaited(10.0, 0.3) is None, "0.2 s are more than half of 0.3 s"
    assert queue.outwaited(10.4, 1.0) is None, "the short request waits for no longer, late or not"


def test_short_work_that_came_first_waits_for_no_long_work() -> None:
    queue: WorkQueue[Work] = WorkQueue(proportion=0.0, head_start=0.0, turn=5.0)
    queue.add(Work(0.0))
    queue.add(long(1.0))
    assert queue.outwaited(2.0, 1.0) is None


def test_without_both_nothing_is_outwaited() -> None:
    queue: WorkQueue[Work] = WorkQueue(proportion=0.25)
    assert queue.outwaited(10.0, 1.0) is None
    queue.add(long(0.0))
    assert queue.outwaited(10.0, 1.0) is None
