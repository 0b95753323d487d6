"""Errors in vLLM's shape, and the limits that an upload may not exceed."""

# The defaults of VLLM_MAX_AUDIO_CLIP_FILESIZE_MB and VLLM_MAX_AUDIO_DECODE_DURATION_S.
MAX_FILE_MB = 25
MAX_AUDIO_S = 600


class ApiError(Exception):
    """A refused request.

    Args:
        status: HTTP status, repeated as `code` in the body.
        message: For people.
        kind: `type` in the body.
        param: The form field at fault, if there is one.
    """

    def __init__(
        self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param

    def body(self) -> dict[str, object]:
        """Return the JSON body."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.status,
        }
        return {"error": error}


def invalid_audio() -> ApiError:
    """Return the error for a file that does not decode."""
    return ApiError(
        400,
        "Invalid or corrupted audio data. Ensure the input is a valid audio or video file "
        "(e.g. a complete WAV, MP3, or MP4).",
    )


def audio_too_long(audio_s: float, max_audio_s: float = MAX_AUDIO_S) -> ApiError:
    """Return the error for audio longer than `max_audio_s` seconds."""
    return ApiError(
        400,
        f"Audio exceeds maximum allowed duration of {max_audio_s:g}s (metadata reports "
        f"{audio_s:.1f}s). Set VLLM_MAX_AUDIO_DECODE_DURATION_S to increase this limit.",
    )
