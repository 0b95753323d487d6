"""Errors that clients can see, each with an HTTP status and an OpenAI error code.

Every error is returned in OpenAI's format, `{"error": {"message", "type", "param", "code"}}`,
because the official SDKs read no other. Foreign exceptions are translated into these where they
arise. This module does not depend on sockets or frameworks.
"""

from __future__ import annotations

import json
import math


class RouterError(Exception):
    """An error to return to the client.

    Attributes:
        status: HTTP status code.
        error_type: OpenAI's `type`.
        code: OpenAI's `code`, a stable identifier for programs.
        message: One plain sentence that says what to do.
        param: The form field or header at fault, if any.
        retry_after_s: Seconds after which a retry is worthwhile; None: it is not.
    """

    status = 500
    error_type = "server_error"
    code = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """Return the JSON response body."""
        return error_body(self.message, self.error_type, self.param, self.code)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the error's headers, except the content type."""
        if self.retry_after_s is None:
            return []
        return [(b"retry-after", b"%d" % max(1, math.ceil(self.retry_after_s)))]


def error_body(message: str, error_type: str, param: str | None, code: str | None) -> bytes:
    """Return an error in OpenAI's format as JSON bytes."""
    error = {"message": message, "type": error_type, "param": param, "code": code}
    # JSON can escape a lone surrogate, but UTF-8 cannot encode it: it becomes `?`.
    return json.dumps({"error": error}, ensure_ascii=False).encode("utf-8", "replace")


class BadRequest(RouterError):
    """The request is malformed or incomplete."""

    status = 400
    error_type = "invalid_request_error"
    code = "bad_request"


class MissingField(BadRequest):
    """A required form field is missing or empty."""

    code = "missing_required_parameter"


class UnreadableAudio(BadRequest):
    """The file cannot be decoded as audio."""

    code = "invalid_audio"


class UnknownAudioFormat(UnreadableAudio):
    """The router cannot decode the file's format; an engine may be able to."""


class UnsupportedValue(BadRequest):
    """A form field requests something that is not supported."""

    code = "unsupported_value"


def no_word_times() -> UnsupportedValue:
    """Return the error for engines without word timestamps."""
    return UnsupportedValue(
        "The engines provide no word timestamps; use 'timestamp_granularities[]=segment'.",
        param="timestamp_granularities[]",
    )


class WrongKey(RouterError):
    """The client's key is missing or wrong."""

    status = 401
    error_type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(RouterError):
    """The route is closed."""

    status = 403
    error_type = "permission_error"
    code = "forbidden"


class NotFound(RouterError):
    """The route or engine does not exist."""

    status = 404
    error_type = "invalid_request_error"
    code = "not_found"


class UnknownModel(NotFound):
    """No engine serves the model."""

    code = "model_not_found"


class MethodNotAllowed(RouterError):
    """The route exists but does not support the method."""

    status = 405
    error_type = "invalid_request_error"
    code = "method_not_allowed"


class TooSlow(RouterError):
    """The client took too long to send its request."""

    status = 408
    error_type = "invalid_request_error"
    code = "request_timeout"


class TooLarge(RouterError):
    """The upload is larger than allowed."""

    status = 413
    error_type = "invalid_request_error"
    code = "upload_too_large"


class HeadersTooLarge(RouterError):
    """The request's head is larger than allowed."""

    status = 431
    error_type = "invalid_request_error"
    code = "headers_too_large"


class QueueIsFull(RouterError):
    """The queue has no room for more work."""

    status = 429
    error_type = "rate_limit_error"
    code = "queue_full"


class RateLimited(RouterError):
    """The client's key has used up its quota."""

    status = 429
    error_type = "rate_limit_error"
    code = "rate_limit_exceeded"


class EnginesBusy(RouterError):
    """Every eligible engine has asked for a pause."""

    status = 429
    error_type = "rate_limit_error"
    code = "engines_busy"


class EngineFailed(RouterError):
    """Every engine that was tried has failed."""

    status = 502
    error_type = "server_error"
    code = "engine_failed"


class EnginesDied(EngineFailed):
    """Two engines crashed while they worked on the same upload.

    The upload may be the cause, so it must not be sent again: the official SDKs, which retry every
    502, honor `x-should-retry`.
    """

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the error's headers, except the content type."""
        return [(b"x-should-retry", b"false")]


class NoEngineReady(RouterError):
    """The model is known, but no engine can accept the upload now."""

    status = 503
    error_type = "server_error"
    code = "no_engine_ready"


class ShuttingDown(RouterError):
    """The router is draining and accepts no new uploads."""

    status = 503
    error_type = "server_error"
    code = "shutting_down"


class EngineTooSlow(RouterError):
    """An engine accepted the upload but did not answer in time."""

    status = 504
    error_type = "server_error"
    code = "engine_timeout"


class SpoolFull(RouterError):
    """There is no space left to store the upload."""

    status = 503
    error_type = "server_error"
    code = "spool_full"
