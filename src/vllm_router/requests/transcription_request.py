"""What is known of a request once its upload has come whole: read from the form, checked, nothing
invented.

Pure but for reading the upload's head and tail. Errors are told in words for the client.
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

#: When no engine can take a model now: as long as a probe interval is worth waiting.
RETRY_AFTER_S: Final = 5.0
#: A WAV's format and data chunks stand within this, unless a large picture comes before them.
WAV_HEAD_BYTES: Final = 1024


@dataclass(slots=True)
class TranscriptionRequest:
    """One request, as the proxy sees it.

    Attributes:
        task: Transcribe or translate.
        model: The model's name as engines know it.
        asked_model: As the client wrote it; None if it wrote none.
        form: The form read.
        file: Where the audio lies in it.
        hint: How long the audio probably is; for queueing.
        measured_s: Its length, of a plain WAV, whose bytes measure it; None of all else.
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
        """Return whether a boolean field is set, as pydantic reads it at the engine."""
        return (self.text(name) or "").lower() in ("true", "1", "t", "yes", "y", "on")


def read_transcription_request(
    task: Task,
    form: Form,
    upload: Upload,
    models: tuple[str, ...],
    aliases: Mapping[str, str],
    bitrates: BitrateBook,
) -> TranscriptionRequest:
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
    # A WAV's header is short and most uploads are WAV: look no further unless it is needed.
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
    """Return the likely length, the measured one if there is one, the container, and its damage.

    Raises:
        UnreadableAudio: There can be no sound in it.
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
