"""A Whisper model in CTranslate2's format, without faster-whisper.

faster-whisper recognises a multilingual model by the size of its vocabulary, and leaves the
language and the task out of the prompt of a model with a small one.

Calls block, so they belong on worker threads; several threads may share a model.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import ctranslate2
import tokenizers

from vllm_router.local.audio import Samples, log_mel, mel_filters
from vllm_router.local.languages import LANGUAGES
from vllm_router.local.responses import Chunk, ResponseSegment

# A step of Whisper's timestamp tokens, and how many follow the last other token: 0.00 to 30.00 s.
TICK_S = 0.02
TIMESTAMPS = 1501
# The context of Whisper's decoder; the prompt may use half of it.
MAX_TOKENS = 448
PROMPT_TOKENS = 223
# Vocabulary of the English-only models. Their tokenizers may name languages and tasks that the
# weights do not know; OpenAI's code recognises these models by this size, too.
ENGLISH_ONLY_VOCABULARY = 51864


class ModelError(Exception):
    """The model is missing or unusable; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to transcribe.

    Attributes:
        task: "transcribe" or "translate".
        language: Code of the language; None detects it.
        timestamps: Whether to return segments with timestamps.
        prompt: Text that precedes the recording.
        temperature: 0 decodes greedily, more samples.
    """

    task: str = "transcribe"
    language: str | None = None
    timestamps: bool = False
    prompt: str = ""
    temperature: float = 0.0


def find_model(name: str) -> Path:
    """Return the folder of a model, given as a folder or by its name on the Hugging Face hub.

    Raises:
        ModelError: No such folder or model, or the hub's client is not installed.
    """
    folder = Path(name)
    if folder.is_dir():
        missing = [
            part for part in ("model.bin", "tokenizer.json") if not (folder / part).is_file()
        ]
        if missing:
            raise ModelError(
                f"{name} is no CTranslate2 model: it has no {' and no '.join(missing)}"
            )
        return folder
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ModelError(f"{name}: no such folder, and no name as on the Hugging Face hub")
    try:
        import huggingface_hub
    except ImportError:
        raise ModelError(
            f"{name}: no such folder; to fetch it from the hub, pip install huggingface_hub"
        ) from None
    patterns = ["*.json", "model.bin", "vocabulary.*"]
    try:
        # The operator names the model, and may mean its newest revision.
        fetched = huggingface_hub.snapshot_download(name, allow_patterns=patterns)  # nosec B615
        return Path(fetched)
    except Exception as error:
        # The hub's client raises the errors of several libraries; none leaves a model.
        raise ModelError(f"{name} cannot be fetched from the hub: {error}") from error


class Whisper:
    """A loaded model.

    Args:
        folder: With model.bin, tokenizer.json and config.json.
        threads: CPU threads per chunk.

    Raises:
        ModelError: The folder holds no usable model.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        try:
            self._model = ctranslate2.models.Whisper(
                str(folder), device="cpu", compute_type="int8", intra_threads=threads
            )
            self._tokens = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            config = json.loads((folder / "config.json").read_text())
        except (OSError, RuntimeError, ValueError) as error:
            raise ModelError(f"{folder} holds no usable model: {error}") from error
        self._filters = mel_filters(self._model.n_mels)
        self._start = self._id("<|startoftranscript|>")
        self._no_timestamps = self._id("<|notimestamps|>")
        # Timestamps come last, and many tokenizers leave them out.
        self._zero = self._no_timestamps + 1
        self._end = self._id("<|endoftext|>")
        self._languages = {
            number: code
            for code in LANGUAGES
            if (number := self._tokens.token_to_id(f"<|{code}|>")) is not None
        }
        size = self._zero + TIMESTAMPS
        self._has_tasks = size != ENGLISH_ONLY_VOCABULARY and bool(self._languages)
        # A model without a list of its own suppresses nothing.
        is_suppressing = bool(config.get("suppress_ids"))
        self._suppress = {
            "suppress_blank": is_suppressing,
            "suppress_tokens": [-1] if is_suppressing else [],
        }
        self._not_languages = [number for number in range(size) if number not in self._languages]

    @property
    def languages(self) -> frozenset[str]:
        """The codes of the languages that the model knows."""
        return frozenset(self._languages.values()) if self._has_tasks else frozenset(("en",))

    def encode(self, samples: Samples) -> ctranslate2.StorageView:
        """Return the encoder's output for at most 30 s."""
        features = ctranslate2.StorageView.from_array(log_mel(samples, self._filters)[None])
        return self._model.encode(features)

    def detect_language(self, encoded: ctranslate2.StorageView) -> str:
        """Return the code of the likeliest language."""
        if not self._has_tasks:
            return "en"
        if self._model.is_multilingual:
            token, _ = self._model.detect_language(encoded)[0][0]
            return str(token)[2:-2]
        # CTranslate2 takes a small vocabulary for an English-only one, and refuses. With all other
        # tokens suppressed, the first token after the start is the language.
        result = self._model.generate(
            encoded,
            [[self._start]],
            beam_size=1,
            max_length=2,
            suppress_blank=False,
            suppress_tokens=self._not_languages,
        )[0]
        return next(
            (self._languages[i] for i in result.sequences_ids[0] if i in self._languages), "en"
        )

    def transcribe(
        self, encoded: ctranslate2.StorageView, start_s: float, length_s: float, options: Options
    ) -> Chunk:
        """Return the transcript of a chunk.

        Args:
            encoded: From `encode`.
            start_s: Where the chunk starts in the recording.
            length_s: Its length.
            options: With a language.
        """
        result = self._model.generate(
            encoded,
            [self._prompt(options)],
            beam_size=1,
            max_length=MAX_TOKENS,
            return_scores=True,
            sampling_topk=0 if options.temperature > 0 else 1,
            sampling_temperature=options.temperature or 1.0,
            **self._suppress,
        )[0]
        ids = result.sequences_ids[0]
        if not options.timestamps:
            return Chunk(start_s, self._text(ids), (), len(ids))
        segments = self._segments(ids, length_s, result.scores[0])
        return Chunk(start_s, "".join(each.text for each in segments), segments, len(ids))

    def _prompt(self, options: Options) -> list[int]:
        prompt: list[int] = []
        if options.prompt.strip():
            ids = self._tokens.encode(f" {options.prompt.strip()}", add_special_tokens=False).ids
            prompt = [self._id("<|startofprev|>"), *ids[-PROMPT_TOKENS:]]
        prompt.append(self._start)
        if self._has_tasks:
            prompt += [self._id(f"<|{options.language}|>"), self._id(f"<|{options.task}|>")]
        # Without this token CTranslate2 enforces Whisper's rules for timestamps: they come in pairs
        # and never run backwards, and one is chosen wherever all of them together are likelier
        # than the likeliest word.
        if not options.timestamps:
            prompt.append(self._no_timestamps)
        return prompt

    def _segments(
        self, ids: list[int], length_s: float, score: float
    ) -> tuple[ResponseSegment, ...]:
        """Return the segments between timestamps: one ends a segment, another begins the next."""
        segments: list[ResponseSegment] = []
        start_s = 0.0
        words: list[int] = []
        # A truncated output lacks its last timestamp: its words last until the end.
        for number in [*ids, self._zero + round(length_s / TICK_S)]:
            if number < self._zero:
                words.append(number)
                continue
            now_s = min(round((number - self._zero) * TICK_S, 2), round(length_s, 2))
            if words:
                text = self._text(words)
                segments.append(
                    ResponseSegment(start_s, max(start_s, now_s), text, tuple(words), score)
                )
                words = []
            start_s = max(start_s, now_s)
        return tuple(segments)

    def _text(self, ids: list[int]) -> str:
        # All special tokens come after the words, the end of text first.
        return str(self._tokens.decode([number for number in ids if number < self._end]))

    def _id(self, token: str) -> int:
        number = self._tokens.token_to_id(token)
        if number is None:
            raise ModelError(f"the model's tokenizer has no {token}")
        return int(number)
