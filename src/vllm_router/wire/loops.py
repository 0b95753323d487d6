"""Whether an engine got caught in a loop: it wrote words again, or invented some on the way out.

Whisper does so now and then, most of all where a sentence was spoken twice. What it writes then is
faster than anyone speaks, and that tells it from what was said again.

Promises: pure; a transcript without times is never called a loop. A false alarm costs one more
hearing, no words.

Bounds: a few milliseconds for a segment, however long its text.

Refuses to know: languages. Letters per second are counted, whatever the script.
"""

import re
from typing import Final

from vllm_router.wire.transcript import Transcript

# Fast speech is 18 letters and spaces a second; scripts with a syllable to a letter have fewer.
_HASTY_PER_S: Final = 20.0
_POSSIBLE_PER_S: Final = 25.0
_IMPOSSIBLE_PER_S: Final = 40.0
# Shorter texts are over so soon that their times say nothing.
_SHORTEST: Final = 24
_SHORTEST_TIME_S: Final = 0.02
# The search below takes the square of a text's length; loops are found in the first part of one.
_SEARCHED: Final = 1000
_PHRASE: Final = re.compile(r"(\S.{11,}?)\W*\1")


def is_caught_in_a_loop(transcript: Transcript) -> bool:
    """Say whether words come that there was no time to say.

    A phrase of at least 12 letters twice in a row, in haste; or a segment faster than anyone can
    speak among others that are not: where all are, the times are made up.
    """
    said = [
        (len(text) / max(segment.end_s - segment.start_s, _SHORTEST_TIME_S), text)
        for segment in transcript.segments
        if len(text := segment.text.strip()) >= _SHORTEST
    ]
    if said and max(said)[0] > _IMPOSSIBLE_PER_S and min(said)[0] < _POSSIBLE_PER_S:
        return True
    return any(
        rate > _HASTY_PER_S and _PHRASE.search(text[:_SEARCHED]) is not None for rate, text in said
    )
