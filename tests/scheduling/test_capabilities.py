"""What engines can do, as a value."""

import json

from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.capabilities import CONTAINERS, UNKNOWN, Capabilities, narrowest

KINDS = st.frozensets(st.sampled_from(CONTAINERS))
SOME = st.builds(
    Capabilities,
    st.none() | st.booleans(),
    st.none() | st.booleans(),
    st.none() | st.floats(1, 1e6),
    st.none() | st.integers(1, 10**9),
    st.none() | KINDS,
    KINDS,
)


@given(SOME, SOME)
def test_what_all_of_several_engines_can_do_does_not_depend_on_their_order(
    a: Capabilities, b: Capabilities
) -> None:
    assert narrowest([a, b]) == narrowest([b, a])
    assert narrowest([a, a]) == narrowest([a]) == narrowest([a, UNKNOWN]) == a


@given(st.lists(SOME), st.sampled_from(CONTAINERS), st.floats(1, 1e6), st.integers(1, 10**9))
def test_what_goes_to_any_of_them_is_within_what_each_can(
    several: list[Capabilities], kind: str, audio_s: float, size_bytes: int
) -> None:
    all_can = narrowest(several)
    assert all_can.can_read(kind) == all(each.can_read(kind) for each in several)
    takes = all(each.can_take(audio_s, size_bytes) for each in several)
    assert all_can.can_take(audio_s, size_bytes) == takes
    for name in ("verbose_json", "language"):
        known = [getattr(each, name) for each in several if getattr(each, name) is not None]
        assert getattr(all_can, name) == (all(known) if known else None)


@given(SOME, SOME)
def test_what_is_stated_beats_what_is_learned(stated: Capabilities, learned: Capabilities) -> None:
    known = stated.beats(learned)
    for name in ("verbose_json", "language", "max_audio_s", "max_file_bytes", "containers"):
        value = getattr(stated, name)
        assert getattr(known, name) == (getattr(learned, name) if value is None else value)
    if stated.containers is not None:
        # Whoever says what is read says what is not.
        assert known.unreadable == stated.unreadable
    assert stated.beats(UNKNOWN) == stated
    assert UNKNOWN.beats(learned) == learned


@given(SOME)
def test_wav_may_always_be_sent(some: Capabilities) -> None:
    assert some.can_read("wav")


@given(SOME)
def test_what_is_not_known_is_not_shown(some: Capabilities) -> None:
    assert json.loads(json.dumps(some.view())) == some.view()
    assert UNKNOWN.view() == {}
    assert ("language" in some.view()) == (some.language is not None)
