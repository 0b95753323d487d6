"""Where text may be broken within a run of characters without spaces.

Promises: the parts add up to the text. Words of scripts that need a dictionary to find them (Thai,
Lao, Khmer, Burmese) and of others written without spaces (Tibetan, Javanese) are found by ICU, so
that no syllable is broken. A cluster is what a reader sees as one character, with the vowel signs
that Thai and Lao write as letters before or after their consonant.

Bounds: linear in the text.

Refuses to know: columns, lines and punctuation (line_breaking.py).
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

# The blocks with the scripts of South and South-East Asia that put no space between words. Some in
# between do use spaces, such as Mongolian; they lose nothing, for ICU does not break their words.
_UNSPACED: Final = re.compile("[\u0e00-\u109f\u1700-\u1bff\ua980-\uaadf]")
# One character each, whatever stands beside it: Latin, Greek, Cyrillic, Armenian and the usual Han,
# kana and Hangul. Anything else is left to ICU, which takes a few microseconds for a word.
_SIMPLE: Final = re.compile(
    "[\x00-\x08\x0e-\xa8\xaa-\xac\xaf-\u02ff\u0370-\u0482\u048a-\u058f"
    "\u3001-\u3029\u3041-\u3096\u30a1-\u30ff\u3400-\u9fff\uac00-\ud7a3\uff01-\uff9d]*"
)
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
# Thai and Lao vowels that are letters of their own to Unicode, but no syllable without a consonant.
_LEADING_VOWELS: Final = frozenset("เแโใไເແໂໃໄ")
_FOLLOWING: Final = frozenset("ะาำๅๆฯະາຳໆຯ")
# Burmese: the consonant that it stands on closes the syllable before it.
_VOWEL_KILLER: Final = "\u103a"
# Rules of this language for all: dictionaries are chosen by script.
_LOCALE: Final = "en"


def has_unspaced_script(text: str) -> bool:
    """Say whether words can be found in a text only by `line_parts`."""
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
    """Yield what is seen as one character: a letter with its marks, a joined emoji, a flag."""
    if _SIMPLE.fullmatch(text) is not None:
        yield from text
        return
    from icu4py.breakers import CharacterBreaker

    yield from _glued(_parts(iter(CharacterBreaker(_readable(text), _LOCALE)), text))


def _readable(text: str) -> str:
    """Return a text of the same length that ICU takes: it refuses halves of surrogate pairs."""
    return _SURROGATES.sub("\ufffd", text)


def _parts(found: Iterator[str], text: str) -> Iterator[str]:
    # By length: the positions that the library gives are in UTF-16.
    at = 0
    for part in found:
        yield text[at : at + len(part)]
        at += len(part)


def _glued(parts: Iterator[str]) -> Iterator[str]:
    """Join what a dictionary that does not know a word, or a rule for letters, took apart."""
    joined = ""
    for part in parts:
        if joined and joined[-1] not in _LEADING_VOWELS and not _follows(part):
            yield joined
            joined = ""
        joined += part
    if joined:
        yield joined


def _follows(part: str) -> bool:
    """Say whether a part is no beginning of a syllable."""
    return (
        part[0] in _FOLLOWING
        or unicodedata.category(part[0]) in ("Mn", "Mc", "Me")
        or part[1:2] == _VOWEL_KILLER
    )
