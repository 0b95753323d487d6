"""The language of an audio: identified from the text of its pieces, and decided by majority.

An engine that gets no language detects one per window. If there is little speech, or music, it may
be wrong, and then it transcribes the whole window in the wrong language. The audio's other pieces
show which ones to transcribe again.

Promises: the order in which pieces arrive does not change the result. Languages are named by
Whisper's codes ("en"), whatever names an engine or a client uses.

Bounds: identification reads at most 1,500 characters and takes a few milliseconds. Loading the
model takes 0.6 s of CPU time and 75 MB; do it in a thread.

Refuses to know: audio. Fluent text in the wrong language is recognized only by its neighbors.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

# The languages of Whisper's tokenizer, in its order: code, and name as in OpenAI's answers.
_NAMES: Final = (
    "en english, zh chinese, de german, es spanish, ru russian, ko korean, fr french, ja "
    "japanese, pt portuguese, tr turkish, pl polish, ca catalan, nl dutch, ar arabic, sv "
    "swedish, it italian, id indonesian, hi hindi, fi finnish, vi vietnamese, he hebrew, uk "
    "ukrainian, el greek, ms malay, cs czech, ro romanian, da danish, hu hungarian, ta tamil, "
    "no norwegian, th thai, ur urdu, hr croatian, bg bulgarian, lt lithuanian, la latin, mi "
    "maori, ml malayalam, cy welsh, sk slovak, te telugu, fa persian, lv latvian, bn bengali, "
    "sr serbian, az azerbaijani, sl slovenian, kn kannada, et estonian, mk macedonian, br "
    "breton, eu basque, is icelandic, hy armenian, ne nepali, mn mongolian, bs bosnian, kk "
    "kazakh, sq albanian, sw swahili, gl galician, mr marathi, pa punjabi, si sinhala, km "
    "khmer, sn shona, yo yoruba, so somali, af afrikaans, oc occitan, ka georgian, be "
    "belarusian, tg tajik, sd sindhi, gu gujarati, am amharic, yi yiddish, lo lao, uz uzbek, "
    "fo faroese, ht haitian creole, ps pashto, tk turkmen, nn nynorsk, mt maltese, sa "
    "sanskrit, lb luxembourgish, my myanmar, bo tibetan, tl tagalog, mg malagasy, as "
    "assamese, tt tatar, haw hawaiian, ln lingala, ha hausa, ba bashkir, jw javanese, su "
    "sundanese, yue cantonese"
)
CODES: Final = tuple(entry.split(" ", 1)[0] for entry in _NAMES.split(", "))
_CODES: Final = frozenset(CODES)
# Aliases: from Whisper's tokenizer, older ISO 639 codes, and BCP 47.
_CODE_OF: Final = {
    **{name: code for code, name in (entry.split(" ", 1) for entry in _NAMES.split(", "))},
    "burmese": "my",
    "castilian": "es",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "mandarin": "zh",
    "moldavian": "ro",
    "moldovan": "ro",
    "panjabi": "pa",
    "pushto": "ps",
    "sinhalese": "si",
    "valencian": "ca",
    "cmn": "zh",
    "fil": "tl",
    "in": "id",
    "iw": "he",
    "ji": "yi",
    "jv": "jw",
    "nb": "no",
}

# Languages that short texts do not distinguish. A piece in one of them among pieces in another of
# the same group is not transcribed again.
_CLOSE: Final = (
    frozenset(("no", "nn", "da", "sv")),
    frozenset(("id", "ms", "jw", "su")),
    frozenset(("hr", "bs", "sr", "sl", "mk")),
    frozenset(("cs", "sk")),
    frozenset(("gl", "pt")),
    frozenset(("zh", "yue")),
    frozenset(("nl", "af")),
    frozenset(("de", "lb")),
    frozenset(("ca", "oc")),
    frozenset(("hi", "ur", "mr", "ne", "sa")),
    frozenset(("ru", "be", "bg")),
    frozenset(("tr", "az")),
)

# Measured on 29 languages: of texts of 10 words 359 of 363 were identified, the others as a close
# language with a confidence of at most 0.7; of 5 words 96 %, the others with at most 0.75.
_SURE: Final = 0.8
# Below this, the text is hardly language: sounds, numbers, "haha".
_LEAST_CONFIDENCE: Final = 0.5
_READ: Final = 1500

# Whisper tends to choose these for noise, music and unclear speech: 20 s of fluent Welsh in an
# English audio is more likely an error than Welsh.
_MISTAKES: Final = frozenset(
    (
        "cy",
        "la",
        "nn",
        "mi",
        "haw",
        "sa",
        "jw",
        "su",
        "br",
        "fo",
        "yo",
        "sn",
        "ln",
        "oc",
        "lb",
        "ht",
    )
)

# A second language is kept if a run of pieces has this much speech in it.
_LONG_S: Final = 15.0
# Two pieces rarely have the same error: with this much speech in both, it is kept too.
_PAIR_S: Final = 8.0
# It is also kept if a run has this many pieces.
_RUN: Final = 3
# Pieces examined on each side. Many in a row may be of unknown language, and only so many are
# decoded ahead of one that waits for them.
_REACH: Final = 16


class Identifier(Protocol):
    """Identifies the language of texts; thread-safe."""

    def identify(self, text: str) -> "Identified | None":
        """Return the language of a text; None if it has too few words."""
        ...


@dataclass(frozen=True, slots=True)
class Identified:
    """The language of a text.

    Attributes:
        language: Whisper's code.
        confidence: From 0 to 1.
    """

    language: str
    confidence: float


class TextIdentifier:
    """Identifies with py3langid's naive Bayes model, among the languages that Whisper knows."""

    __slots__ = ("_model",)

    def __init__(self) -> None:
        """Load the model. Takes 0.6 s of CPU time; other threads stall for at most 60 ms.

        Raises:
            OSError: No directory for temporary files is writable.
        """
        # Imported here so that it costs nothing when it is not used.
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        known = set(model.labels)
        model.set_languages([code for code in (*CODES, "jv") if code in known])
        self._model = model

    def identify(self, text: str) -> Identified | None:
        """Return the language of a text; None if it has too few words.

        Thread-safe. Takes about 1 ms for the text of 30 s.
        """
        language, confidence = self._model.classify(text[:_READ])
        code = language_code(language)
        if code is None or confidence < _LEAST_CONFIDENCE:
            return None
        return Identified(code, confidence)


def language_code(name: str | None) -> str | None:
    """Return Whisper's code for a language named by an engine or a client.

    Accepts codes ("en", "EN"), codes with a region or script ("en-US", "zh_Hant"), and English
    names ("english"). Returns None for anything else.
    """
    if name is None:
        return None
    bare = name.strip().lower()
    if bare in _CODES:
        return bare
    found = _CODE_OF.get(bare)
    if found is not None:
        return found
    code = bare.replace("_", "-").split("-", 1)[0]
    return code if code in _CODES else _CODE_OF.get(code) if len(code) <= 3 else None


def are_close(first: str, second: str) -> bool:
    """Return whether two languages are equal, or too similar to distinguish by a few words."""
    return first == second or any(first in group and second in group for group in _CLOSE)


class LanguageChoice(Enum):
    """What to do with a piece's transcript, given its language."""

    KEEP = "keep"
    """It is in the audio's language, or in a second language that is really spoken."""
    ASK_AGAIN = "ask_again"
    """It is probably in the wrong language: transcribe it again in the audio's."""
    WAIT = "wait"
    """Neighboring pieces that are not known yet may decide."""


@dataclass(frozen=True, slots=True)
class LanguageSample:
    """The language of one piece.

    Attributes:
        language: Whisper's code; None if not known.
        confidence: From 0 to 1; 1 if the engine named the language.
        speech_s: Seconds of speech in the piece.
    """

    language: str | None
    confidence: float
    speech_s: float


class LanguageVote:
    """Decides the language of one audio by majority over its pieces' speech."""

    __slots__ = ("_count", "_heard")

    def __init__(self) -> None:
        self._heard: dict[int, LanguageSample] = {}
        self._count: int | None = None

    def hear(self, index: int, heard: LanguageSample) -> None:
        """Add a piece, or replace it after a second transcript.

        Args:
            index: Position among the audio's pieces, from 0.
            heard: Its language.
        """
        self._heard[index] = heard

    def finish(self, count: int) -> None:
        """Set the number of pieces once it is known; then no piece waits for a later one."""
        self._count = count

    @property
    def majority(self) -> str | None:
        """The language of most speech so far, weighted by confidence; None if no piece has one.

        Close languages are counted together.
        """
        votes: dict[str, float] = {}
        for index in sorted(self._heard):
            heard = self._heard[index]
            if heard.language is not None:
                weight = heard.confidence * heard.speech_s
                votes[heard.language] = votes.get(heard.language, 0.0) + weight

        def weight_of(language: str) -> tuple[float, float, str]:
            together = sum(votes[other] for other in votes if are_close(language, other))
            return together, votes[language], language

        return max(votes, key=weight_of) if votes else None

    def choose(self, index: int) -> LanguageChoice:
        """Return what to do with a piece that has been added.

        A piece in another language than the majority's is kept if the pieces around it in that
        language have, with high confidence, 15 s of speech, or 8 s if they are two, or number
        three. For languages that Whisper tends to choose for noise, only three pieces count. After
        `WAIT`, call again when further pieces have been added.

        Raises:
            KeyError: The piece has not been added.
        """
        heard, majority = self._heard[index], self.majority
        if heard.language is None:
            return LanguageChoice.KEEP
        run, is_open = self._run(index)
        if self._stays(run):
            return LanguageChoice.KEEP
        is_in_majority = majority is not None and are_close(heard.language, majority)
        if is_in_majority and self._is_enough(run):
            return LanguageChoice.KEEP
        if is_open:
            return LanguageChoice.WAIT
        return LanguageChoice.KEEP if is_in_majority else LanguageChoice.ASK_AGAIN

    def to_ask_again(self) -> list[int]:
        """Return the indices of pieces to transcribe again in the majority's language, in order."""
        return [i for i in sorted(self._heard) if self.choose(i) is LanguageChoice.ASK_AGAIN]

    def _run(self, index: int) -> tuple[list[int], bool]:
        """Return the run of pieces in the same language around a piece.

        Also returns whether the run may still grow because the piece next to it is not known.
        """
        language = self._heard[index].language
        assert language is not None
        run = [index]
        is_open = False
        for step in (-1, 1):
            for at in range(index + step, index + step * (_REACH + 1), step):
                if at < 0 or (self._count is not None and at >= self._count):
                    break
                other = self._heard.get(at)
                if other is None:
                    is_open = True
                    break
                # A piece of unknown language does not end a run.
                if other.language is not None:
                    if not are_close(other.language, language):
                        break
                    run.append(at)
        return run, is_open

    def _stays(self, run: Sequence[int]) -> bool:
        sure = [self._heard[i] for i in run if self._heard[i].confidence >= _SURE]
        if len(sure) >= _RUN:
            return True
        believed = [heard for heard in sure if heard.language not in _MISTAKES]
        enough_s = _LONG_S if len(believed) < 2 else _PAIR_S
        return sum(heard.speech_s for heard in believed) >= enough_s

    def _is_enough(self, run: Sequence[int]) -> bool:
        """Return whether there is enough speech to trust a majority that includes this run."""
        has_others = any(i not in run and self._heard[i].language for i in self._heard)
        return has_others or sum(self._heard[i].speech_s for i in run) >= _LONG_S


def result_language(named: Iterable[str | None], identified: Identified | None = None) -> str:
    """Return a result's language, which is never null.

    Args:
        named: The client's, the engine's, and the majority's, in order of precedence.
        identified: The language identified from the whole text.

    Returns:
        Whisper's code; "en" if nothing is known, which Whisper returns for silence. "und" would be
        more accurate, but clients may send the value back, and engines reject it.
    """
    for name in named:
        code = language_code(name)
        if code is not None:
            return code
    return identified.language if identified is not None else "en"
