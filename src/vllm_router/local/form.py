"""The form of a transcription or translation request, validated as vLLM validates it."""

from typing import Literal

from fastapi import UploadFile
from pydantic import BaseModel, Field

from vllm_router.local.errors import MAX_FILE_MB, ApiError
from vllm_router.local.languages import LANGUAGES


class TranscriptionForm(BaseModel):
    """The fields that this engine uses; it accepts and ignores all others."""

    file: UploadFile
    model: str | None = None
    language: str | None = None
    prompt: str = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    stream: bool = False
    stream_include_usage: bool = False
    stream_continuous_usage_stats: bool = False

    def check(self, served_model: str) -> None:
        """Refuse what vLLM refuses beyond the types of single fields.

        Raises:
            ApiError: The first violation, in vLLM's order.
        """
        if not self.stream:
            for name in ("stream_include_usage", "stream_continuous_usage_stats"):
                if getattr(self, name):
                    message = "Stream options can only be defined when `stream=True`."
                    raise ApiError(400, f"{message} (parameter={name})", param=name)
        if self.model and self.model != served_model:
            message = f"The model `{self.model}` does not exist."
            raise ApiError(404, message, "NotFoundError", "model")
        if self.response_format in ("srt", "vtt"):
            raise ApiError(
                400, "Currently only support response_format: `text`, `json` or `verbose_json`"
            )
        if self.response_format == "verbose_json" and self.stream:
            raise ApiError(400, "verbose_json format doesn't support streaming case")
        if self.language and self.language not in LANGUAGES:
            raise ApiError(
                400, f"Unsupported language: {self.language!r}. Must be one of {list(LANGUAGES)}."
            )
        size_mb = (self.file.size or 0) / 1024**2
        if size_mb > MAX_FILE_MB:
            name = "audio_filesize_mb"
            message = f"Maximum file size exceeded (parameter={name}, value={size_mb})"
            raise ApiError(400, message, param=name)
