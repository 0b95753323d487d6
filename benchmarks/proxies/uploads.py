"""The uploads that are sent: forms with a real WAV in them, as common clients write them."""

from dataclasses import dataclass
from pathlib import Path

from vllm_router.audio.wav import pcm16_wav

BOUNDARY = b"------------------------d74496d66958873e"
MODEL = b"openai/whisper-small"


@dataclass(frozen=True, slots=True)
class Upload:
    """A form in a file.

    Attributes:
        name: Such as "96 KB".
        path: Where the body lies.
        size_bytes: Its length.
        content_type: The request's header for it.
    """

    name: str
    path: Path
    size_bytes: int
    content_type: str = f"multipart/form-data; boundary={BOUNDARY.decode()}"


def form(audio: bytes, *, is_file_first: bool = True, answer_format: str | None = None) -> bytes:
    """Return a form with the file first, as curl users write it, or last, as SDKs do."""
    file = (
        b'--%b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n%b\r\n" % (BOUNDARY, audio)
    )
    model = b'--%b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n' % (
        BOUNDARY,
        MODEL,
    )
    parts = [file, model] if is_file_first else [model, file]
    if answer_format is not None:
        head = b'--%b\r\nContent-Disposition: form-data; name="response_format"\r\n\r\n%b\r\n'
        parts.append(head % (BOUNDARY, answer_format.encode()))
    return b"".join((*parts, b"--%b--\r\n" % BOUNDARY))


def write_upload(
    folder: Path,
    name: str,
    audio_bytes: int,
    rate_hz: int = 16_000,
    *,
    is_file_first: bool = True,
    answer_format: str | None = None,
) -> Upload:
    """Write a form with a WAV of noise-free but non-zero samples and return it."""
    pcm = (bytes(range(256)) * (audio_bytes // 256 + 1))[: audio_bytes // 2 * 2]
    audio = pcm16_wav(pcm, rate_hz)
    body = form(audio, is_file_first=is_file_first, answer_format=answer_format)
    path = folder / f"{name}-{'file' if is_file_first else 'fields'}-first.form"
    path.write_bytes(body)
    return Upload(name, path, len(body))
