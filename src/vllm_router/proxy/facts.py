"""What is known of a request once its upload has come whole: read from the form, checked, nothing
invented.

Pure but for reading the upload's head and tail. Errors are told in words for the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from vllm_router.errors import MissingField, NoEngineReady, UnknownModel, UnreadableAudio
from vllm_router.outbound.upload import Upload
from vllm_router.wire.bitrate import BitrateBook
from vllm_router.wire.duration import (
    HEAD_BYTES,
    TAIL_BYTES,
    audio_seconds,
    container_kind,
    tail_offset,
)
from vllm_router.wire.multipart import Form, Part
from vllm_router.wire.trouble import audio_trouble, plain_wav

#: When no engine can take a model now: as long as a probe interval is worth waiting.
RETRY_AFTER_S: Final = 5.0
#: A WAV's format and data chunks stand within this, unless a large picture comes before them.
WAV_HEAD_BYTES: Final = 1024


class Task(StrEnum):
    """What is asked of Whisper; the value is the route's last word."""

    TRANSCRIBE = "transcriptions"
    TRANSLATE = "translations"


@dataclass(slots=True)
class RequestFacts:
    """One request, as the proxy sees it.

    Attributes:
        task: Transcribe or translate.
        model: The model's name as engines know it.
        asked_model: As the client wrote it; None if it wrote none.
        form: The form read.
        file: Where the audio lies in it.
        audio_s: Seconds of audio.
        is_estimated: Whether no header told the length, so that it was estimated from bytes.
        kind: The container, such as "wav"; "" when unknown.
    """

    task: Task
    model: str
    asked_model: str | None
    form: Form
    file: Part
    audio_s: float
    is_estimated: bool
    kind: str

    def text(self, name: str) -> str | None:
        """Return a plain field as text, stripped; None if it is absent or empty."""
        value = self.form.value(name)
        if value is None:
            return None
        return value.decode("utf-8", "replace").strip() or None

    def is_true(self, name: str) -> bool:
        """Return whether a boolean field is set, as pydantic reads it at the engine."""
        return (self.text(name) or "").lower() in ("true", "1", "t", "yes", "y", "on")


def read_facts(
    task: Task,
    form: Form,
    upload: Upload,
    models: tuple[str, ...],
    aliases: Mapping[str, str],
    bitrates: BitrateBook,
) -> RequestFacts:
    """Return what a request's form says.

    Args:
        task: By the route.
        form: The form.
        upload: The bytes behind it.
        models: What the fleet serves.
        aliases: Further names and what they stand for.
        bitrates: Estimates the length where no header tells; learns from those that do.

    Raises:
        MissingField: There is no file, or nothing in it, or no model.
        UnknownModel: No engine serves it.
        NoEngineReady: No engine has said yet what it serves.
        UnreadableAudio: The container itself says that the file is broken.
    """
    file = form.file()
    if file is None:
        plain = form.value("file") is not None
        why = "'file' was sent as text; send it as a file" if plain else "there is no field 'file'"
        raise MissingField(f"The audio is missing: {why}.", param="file")
    size_bytes = file.end - file.start
    if not size_bytes:
        raise MissingField("The file is empty.", param="file")
    asked, model = _model(form, models, aliases)
    audio_s, kind = _length(upload, file.start, size_bytes)
    is_estimated = audio_s is None
    if audio_s is None:
        audio_s = bitrates.estimate(kind, size_bytes)
    else:
        bitrates.observe(kind, size_bytes, audio_s)
    return RequestFacts(task, model, asked, form, file, audio_s, is_estimated, kind)


def _length(upload: Upload, start: int, size_bytes: int) -> tuple[float | None, str]:
    """Return seconds of audio, None if no header tells, and the container's kind.

    Raises:
        UnreadableAudio: The container itself says that the file is broken.
    """
    # A WAV's header is short and most uploads are WAV: look no further unless it is needed.
    first = upload.read(start, min(size_bytes, WAV_HEAD_BYTES))
    header = plain_wav(first, size_bytes)
    if header is not None:
        return header.seconds(size_bytes), "wav"
    head, tail = first, b""
    kind = container_kind(head)
    audio_s = audio_seconds(head, size_bytes) if kind == "wav" else None
    if audio_s is None:
        head = upload.read(start, min(size_bytes, HEAD_BYTES))
        if size_bytes > HEAD_BYTES:
            offset = tail_offset(head, size_bytes)
            tail = upload.read(start + offset, min(TAIL_BYTES, size_bytes - offset))
        audio_s = audio_seconds(head, size_bytes, tail)
    trouble = audio_trouble(head, size_bytes, tail)
    if trouble is not None:
        raise UnreadableAudio(trouble, param="file")
    return audio_s, kind


def _model(
    form: Form, models: tuple[str, ...], aliases: Mapping[str, str]
) -> tuple[str | None, str]:
    given = form.value("model")
    asked = given.decode("utf-8", "replace").strip() if given is not None else ""
    if not models:
        raise NoEngineReady(
            "No engine has said yet which models it serves.", retry_after_s=RETRY_AFTER_S
        )
    if not asked:
        if len(models) > 1:
            raise MissingField(f"Name a model; there are: {', '.join(models)}.", param="model")
        return None, models[0]
    model = asked if asked in models else aliases.get(asked, asked)
    if model not in models:
        names = ", ".join([*models, *aliases])
        raise UnknownModel(
            f"The model `{asked[:200]}` does not exist; there are: {names}.", param="model"
        )
    return asked, model
