"""The time that a text takes to say, measured in English letters, for any script.

Promises: pure; punctuation counts nothing; the length of a text is the sum of its words' lengths
plus one for each space.

Bounds: linear in the text.

Refuses to know: languages and speakers. Rates are best compared within one audio (coverage.py);
across scripts, the factors below make them comparable to within about a third.
"""

import unicodedata
from typing import Final

# Read English has 14 to 20 letters and spaces per second. Each factor is that rate divided by the
# usual one of the script: 4.5 Chinese characters, 7.5 Japanese morae, or 5.5 Korean syllables per
# second (after Pellegrino et al. 2011, "A cross-language perspective on speech information rate").
# Arabic and Hebrew omit vowels. In Indic and South-East Asian scripts vowel marks count as letters.
_HAN: Final = 4.0
_KANA: Final = 2.2
_HANGUL: Final = 3.0
_CONSONANTS_ONLY: Final = 1.4
_ETHIOPIC: Final = 2.2
_INDIC: Final = 1.25
# "7" is spoken as "seven"; the four digits of "1961" as 18 letters.
_DIGIT: Final = 4.5
# "%", "€" and "+" are spoken as words.
_SIGN: Final = 7.0


def spoken_length(text: str) -> float:
    """Return a text's spoken length in English letters and spaces.

    Speakers say 14 to 20 of them per second.
    """
    words = text.split()
    return sum(map(word_length, words)) + max(0, len(words) - 1)


def word_length(word: str) -> float:
    """Return the `spoken_length` of a word, or of part of a word; it contains no white space."""
    if word.isascii() and word.isalpha():
        return float(len(word))
    return sum(map(_character_length, word))


def _character_length(character: str) -> float:
    category = unicodedata.category(character)
    kind = category[0]
    if kind == "N":
        return _HAN if ord(character) >= 0x3000 else _DIGIT
    if kind in "LM":
        # A combining diacritic belongs to its letter.
        return 0.0 if 0x0300 <= ord(character) <= 0x036F else _letter_length(ord(character))
    if category == "Sc" or character in "%+=&@":
        return _SIGN
    return 0.0


def _letter_length(code: int) -> float:
    if code < 0x0590:
        return 1.0
    if code <= 0x07BF:
        return _CONSONANTS_ONLY
    if 0x0900 <= code <= 0x109F or 0x1780 <= code <= 0x17FF:
        return _INDIC
    if 0x1200 <= code <= 0x139F:
        return _ETHIOPIC
    if 0x3040 <= code <= 0x30FF or 0x31F0 <= code <= 0x31FF or 0xFF66 <= code <= 0xFF9F:
        return _KANA
    if 0xAC00 <= code <= 0xD7AF:
        return _HANGUL
    if 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or code >= 0x20000:
        return _HAN
    return 1.0
