"""The recordings that are compared: people, joined with pauses of several kinds."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.speech.people import Pause, joined_clips, no_speech
from tests.speech.recordings import Recording

# Short recordings have one to five clips: 11 to 100 s with their pauses.
SHORT_CLIPS = 5


@dataclass(frozen=True, slots=True)
class Case:
    """Recordings of one kind, whose figures are added up."""

    name: str
    recordings: tuple[Recording, ...]

    @property
    def duration_s(self) -> float:
        """Seconds of all recordings."""
        return sum(recording.duration_s for recording in self.recordings)


def cases(seeds: Sequence[int], clips: int, shorts: int) -> list[Case]:
    """Return all cases.

    Args:
        seeds: Each gives one long recording of each kind, and `shorts` short ones.
        clips: Recordings of people in each long recording; 36 last eight minutes with short pauses.
        shorts: Short recordings for each seed.
    """

    def long(name: str, pauses: Sequence[Pause], languages: Sequence[str] = ("en",)) -> Case:
        joined = (joined_clips(seed, clips, pauses, languages) for seed in seeds)
        return Case(name, tuple(joined))

    kinds: tuple[Pause, ...] = ("silence", "noise", "music", "phone")
    return [
        long("clean", ("silence",)),
        long("noisy", ("silence", "noise")),
        long("musical", ("silence", "noise", "music")),
        Case(
            "short",
            tuple(
                joined_clips(1000 * seed + at, 1 + at % SHORT_CLIPS, ("silence", "noise"))
                for seed in seeds
                for at in range(shorts)
            ),
        ),
        long("two languages", ("silence",), ("en", "ru")),
        Case("no speech", tuple(no_speech(kind, 120.0, seeds[0]) for kind in kinds)),
    ]
