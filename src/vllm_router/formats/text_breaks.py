"""Finds breaks within a run of characters without spaces.

Promises: the parts add up to the text. ICU finds the words of scripts that require a dictionary
(Thai, Lao, Khmer, Burmese) and of others written without spaces (Tibetan, Javanese), so that no
syllable is broken. A cluster is what a reader sees as one character, with the vowel signs that Thai
and Lao write as letters before or after their consonant.

Bounds: linear in the text.

Refuses to know: columns, lines and punctuation (line_breaking.py).
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

# The blocks of South and South-East Asian scripts without spaces between words. Some scripts among
# them do use spaces, such as Mongolian; this is harmless, because ICU does not break their words.
_UNSPACED: Final = re.compile("[\u0e00-\u109f\u1700-\u1bff\ua980-\uaadf]")
# Always one character each: Latin, Greek, Cyrillic, Armenian and the common Han, kana and Hangul.
# Anything else is left to ICU, which takes a few microseconds per word.
_SIMPLE: Final = re.compile(
    "[\x00-\x08\x0e-\xa8\xaa-\xac\xaf-\u02ff\u0370-\u0482\u048a-\u058f"
    "\u3001-\u3029\u3041-\u3096\u30a1-\u30ff\u3400-\u9fff\uac00-\ud7a3\uff01-\uff9d]*"
)
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
# Thai and Lao vowels that Unicode treats as letters, but that need a consonant to form a syllable.
_LEADING_VOWELS: Final = frozenset("เแโใไເແໂໃໄ")
_FOLLOWING: Final = frozenset("ะาำๅๆฯະາຳໆຯ")
# Burmese: its consonant closes the preceding syllable.
_VOWEL_KILLER: Final = "\u103a"
# One locale for all texts: dictionaries are chosen by script.
_LOCALE: Final = "en"


def has_unspaced_script(text: str) -> bool:
    """Return whether only `line_parts` can find the words of a text."""
    return not text.isascii() and _UNSPACED.search(text) is not None


def line_parts(text: str) -> Iterator[str]:
    """Yield the parts between which a line may be broken, by Unicode's rules and dictionaries.

    Args:
        text: Without white space.
    """
    # Not at the top: 40 MB of libraries that few processes need.
    from icu4py.breakers import LineBreaker

    yield from _glued(_parts(iter(LineBreaker(_readable(text), _LOCALE)), text))


def clusters(text: str) -> Iterator[str]:
    """Yield characters as readers see them: a letter with its marks, a joined emoji, a flag."""
    if _SIMPLE.fullmatch(text) is not None:
        yield from text
        return
    from icu4py.breakers import CharacterBreaker

    yield from _glued(_parts(iter(CharacterBreaker(_readable(text), _LOCALE)), text))


def _readable(text: str) -> str:
    """Return a text of the same length that ICU accepts: it rejects lone surrogates."""
    return _SURROGATES.sub("\ufffd", text)


def _parts(found: Iterator[str], text: str) -> Iterator[str]:
    # By length, because the library's positions are in UTF-16.
    at = 0
    for part in found:
        yield text[at : at + len(part)]
        at += len(part)


def _glued(parts: Iterator[str]) -> Iterator[str]:
    """Join parts that a dictionary without the word, or a rule for letters, has separated."""
    joined = ""
    for part in parts:
        if joined and joined[-1] not in _LEADING_VOWELS and not _follows(part):
            yield joined
            joined = ""
        joined += part
    if joined:
        yield joined


def _follows(part: str) -> bool:
    """Return whether a part cannot begin a syllable."""
    return (
        part[0] in _FOLLOWING
        or unicodedata.category(part[0]) in ("Mn", "Mc", "Me")
        or part[1:2] == _VOWEL_KILLER
    )
