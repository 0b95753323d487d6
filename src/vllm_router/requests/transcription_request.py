"""What is known about a request once its upload is complete: read from the form, checked, nothing
assumed.

Pure except for reading the upload's head and tail. Error messages are written for the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vllm_router.audio.bitrate import BitrateBook
from vllm_router.audio.duration import (
    HEAD_BYTES,
    TAIL_BYTES,
    audio_seconds,
    container_kind,
    tail_offset,
)
from vllm_router.audio.length import LengthHint, MeasuredSeconds
from vllm_router.audio.length_doubt import bounded_hint, length_doubt
from vllm_router.audio.upload_faults import audio_damage, audio_refusal, is_whole_wav, plain_wav
from vllm_router.errors import MissingField, NoEngineReady, UnknownModel, UnreadableAudio
from vllm_router.observability.request_record import Task
from vllm_router.spool.multipart import Form, FormPart
from vllm_router.spool.upload import Upload

#: If no engine can take a model now: the length of a probe interval.
RETRY_AFTER_S: Final = 5.0
#: A WAV's format and data chunks lie within this, unless a large picture precedes them.
WAV_HEAD_BYTES: Final = 1024


@dataclass(slots=True)
class TranscriptionRequest:
    """One request, as read from its form.

    Attributes:
        task: Transcribe or translate.
        model: The model's name as engines know it.
        asked_model: The name that the client sent; None if it sent none.
        form: The parsed form.
        file: Position of the audio in the upload.
        hint: The probable length of the audio; for queueing.
        measured_s: The length of a plain WAV, which follows from its size; None for other files.
        kind: The container, such as "wav".
        damage: How the file's own lengths contradict its size, as a sentence; None: they do not.
    """

    task: Task
    model: str
    asked_model: str | None
    form: Form
    file: FormPart
    hint: LengthHint
    measured_s: MeasuredSeconds | None
    kind: str
    damage: str | None = None

    def text(self, name: str) -> str | None:
        """Return a plain field as text, stripped; None if it is absent or empty."""
        value = self.form.value(name)
        if value is None:
            return None
        return value.decode("utf-8", "replace").strip() or None

    def is_true(self, name: str) -> bool:
        """Return whether a boolean field is set, as pydantic would parse it on the engine."""
        return (self.text(name) or "").lower() in ("true", "1", "t", "yes", "y", "on")


def read_transcription_request(
    task: Task,
    form: Form,
    upload: Upload,
    models: tuple[str, ...],
    aliases: Mapping[str, str],
    bitrates: BitrateBook,
) -> TranscriptionRequest:
    """Return the request in a form.

    Args:
        task: The route's task.
        form: The form.
        upload: The upload that contains the form.
        models: Models that the fleet serves.
        aliases: Aliases and the models that they stand for.
        bitrates: Estimates the length if no header states it.

    Raises:
        MissingField: The file is missing or empty, or the model is missing.
        UnknownModel: No engine serves the model.
        NoEngineReady: No engine has listed its models yet.
        UnreadableAudio: The container shows that the file is broken.
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
    # A WAV's header is short and most uploads are WAV: read more only if needed.
    first = upload.read(file.start, min(size_bytes, WAV_HEAD_BYTES))
    header = plain_wav(first, size_bytes)
    if header is not None:
        measured_s = MeasuredSeconds(header.seconds(size_bytes))
        return TranscriptionRequest(
            task, model, asked, form, file, LengthHint(measured_s), measured_s, "wav"
        )
    hint, whole_s, kind, damage = _looked_at(upload, file.start, size_bytes, first, bitrates)
    return TranscriptionRequest(task, model, asked, form, file, hint, whole_s, kind, damage)


def _looked_at(
    upload: Upload, start: int, size_bytes: int, first: bytes, bitrates: BitrateBook
) -> tuple[LengthHint, MeasuredSeconds | None, str, str | None]:
    """Return the probable length, the measured length if any, the container, and its damage.

    Raises:
        UnreadableAudio: The file cannot hold audio.
    """
    head, tail = first, b""
    kind = container_kind(head)
    seconds = audio_seconds(head, size_bytes) if kind == "wav" else None
    if seconds is None:
        head = upload.read(start, min(size_bytes, HEAD_BYTES))
        kind = container_kind(head)
    if size_bytes > len(head):
        offset = tail_offset(head, size_bytes)
        tail = upload.read(start + offset, min(TAIL_BYTES, size_bytes - offset))
    if seconds is None:
        seconds = audio_seconds(head, size_bytes, tail)
    refusal = audio_refusal(head, size_bytes)
    if refusal is not None:
        raise UnreadableAudio(refusal, param="file")
    if seconds is not None and kind == "wav" and is_whole_wav(head, size_bytes, tail):
        return LengthHint(seconds), MeasuredSeconds(seconds), kind, None
    damage = audio_damage(head, size_bytes, tail)
    doubt = damage or length_doubt(kind, head, size_bytes, tail, seconds)
    if seconds is None:
        seconds = bitrates.estimate(kind, size_bytes)
    elif doubt is not None:
        seconds = bounded_hint(seconds, size_bytes)
    return LengthHint(seconds, doubt), None, kind, damage


def _model(
    form: Form, models: tuple[str, ...], aliases: Mapping[str, str]
) -> tuple[str | None, str]:
    given = form.value("model")
    asked = given.decode("utf-8", "replace").strip() if given is not None else ""
    if not models:
        raise NoEngineReady("No engine has listed its models yet.", retry_after_s=RETRY_AFTER_S)
    if not asked:
        if len(models) > 1:
            raise MissingField(f"Name a model; available: {', '.join(models)}.", param="model")
        return None, models[0]
    model = asked if asked in models else aliases.get(asked, asked)
    if model not in models:
        names = ", ".join([*models, *aliases])
        raise UnknownModel(
            f"The model `{asked[:200]}` does not exist; available: {names}.", param="model"
        )
    return asked, model
