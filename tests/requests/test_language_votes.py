"""Pieces that wait for their neighbours' languages; the vote itself is tested in wire."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.requests.fanout import AHEAD
from vllm_router.requests.language_votes import LanguageFinder, LanguageVotes

ENGLISH = "And then all of them went down to the river, where nobody had been for many years."
GERMAN = "Und dann gingen sie alle zum Fluss hinunter, wo seit vielen Jahren niemand gewesen war."


async def test_the_language_of_a_text_is_found() -> None:
    finder = LanguageFinder()
    assert await finder.identify("") is None
    # Several at a time load one model.
    found = await asyncio.gather(*map(finder.identify, (ENGLISH, GERMAN, ENGLISH)))
    assert [each and each.language for each in found] == ["en", "de", "en"]
    assert await finder.identify("12, 14.") is None


async def test_who_stops_waiting_for_the_model_leaves_it_to_the_others() -> None:
    finder = LanguageFinder()
    first, second = (asyncio.create_task(finder.identify(ENGLISH)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    found = await second
    assert found is not None
    assert found.language == "en"


async def test_a_long_piece_has_its_language_by_right_and_waits_for_nobody() -> None:
    votes = LanguageVotes()
    votes.note(5, "de", 1.0, 25.0)
    assert await asyncio.wait_for(votes.settled(5), 1) is None
    assert votes.language == "de"


async def test_a_short_piece_waits_and_is_asked_again_in_the_majoritys() -> None:
    votes = LanguageVotes()
    votes.note(1, "cy", 1.0, 4.0)
    settled = asyncio.create_task(votes.settled(1))
    votes.note(0, "de", 1.0, 25.0)
    await asyncio.sleep(0)
    assert not settled.done()
    votes.note(2, "de", 1.0, 25.0)
    assert await asyncio.wait_for(settled, 1) == "de"


async def test_pieces_are_awaited_until_enough_or_all_are_known() -> None:
    votes = LanguageVotes()
    waiting = [asyncio.create_task(votes.known(count)) for count in (2, 9)]
    votes.note(0, "de", 1.0, 4.0)
    await asyncio.sleep(0)
    assert [task.done() for task in waiting] == [False, False]
    votes.note(1, None, 0.0, 0.0)
    await asyncio.wait_for(waiting[0], 1)
    assert not waiting[1].done()
    votes.end(2)
    await asyncio.wait_for(waiting[1], 1)


async def test_the_end_of_the_audio_settles_its_last_piece() -> None:
    votes = LanguageVotes()
    votes.note(0, "de", 1.0, 25.0)
    votes.note(1, "cy", 1.0, 4.0)
    settled = asyncio.create_task(votes.settled(1))
    await asyncio.sleep(0)
    assert not settled.done()
    votes.end(2)
    assert await asyncio.wait_for(settled, 1) == "de"


async def test_only_a_pieces_first_language_counts() -> None:
    votes = LanguageVotes()
    votes.note(0, "de", 1.0, 25.0)
    # As for a piece of which nothing more will come.
    votes.note(0, None, 0.0, 0.0)
    assert votes.language == "de"


async def test_no_piece_waits_for_one_that_is_decoded_only_after_it_is_given_back() -> None:
    """Pieces whose words tell no language interrupt no row, however many there are."""
    votes = LanguageVotes()
    votes.note(0, "cy", 1.0, 4.0)
    for index in range(1, AHEAD):
        votes.note(index, None, 0.0, 20.0)
    await asyncio.wait_for(votes.settled(0), 1)


PIECES = st.lists(
    st.tuples(
        st.sampled_from([None, "en", "de", "cy", "nn"]),
        st.sampled_from([0.3, 0.9, 1.0]),
        st.sampled_from([1.0, 8.0, 20.0]),
    ),
    min_size=1,
    max_size=12,
)


@given(PIECES, st.data())
@pytest.mark.parametrize("ends_first", [False, True])
def test_every_piece_is_settled_in_whatever_order_they_are_heard(
    ends_first: bool, pieces: list[tuple[str | None, float, float]], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(pieces))))

    async def all_settled() -> list[str | None]:
        votes = LanguageVotes()
        if ends_first:
            votes.end(len(pieces))
        waiting = {}
        for index in order:
            votes.note(index, *pieces[index])
            waiting[index] = asyncio.create_task(votes.settled(index))
            await asyncio.sleep(0)
        votes.end(len(pieces))
        settled = [await asyncio.wait_for(waiting[index], 5) for index in range(len(pieces))]
        assert set(settled) <= {None, *(language for language, _, _ in pieces)}
        return settled

    settled = asyncio.run(all_settled())
    if len({language for language, _, _ in pieces if language is not None}) < 2:
        assert set(settled) == {None}
