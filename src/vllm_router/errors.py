"""The one tree of errors that a client can see, each with its HTTP status and its words.

Every error is answered in OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`,
because the official SDKs read nothing else. Foreign exceptions are translated into these where they
arise; nothing here knows of sockets or frameworks.
"""

from __future__ import annotations

import json
import math


class RouterError(Exception):
    """An error to be answered to the client.

    Attributes:
        status: HTTP status code.
        error_type: OpenAI's `type`.
        code: OpenAI's `code`: a stable word that programs can test.
        message: One plain sentence that says what to do.
        param: The form field or header at fault, if one is.
        retry_after_s: When trying again is worth it, in seconds; None when it is not.
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
        """Return the JSON answer."""
        return error_body(self.message, self.error_type, self.param, self.code)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that belong to the error besides its content type."""
        if self.retry_after_s is None:
            return []
        return [(b"retry-after", b"%d" % max(1, math.ceil(self.retry_after_s)))]


def error_body(message: str, error_type: str, param: str | None, code: str | None) -> bytes:
    """Return an error in OpenAI's shape as JSON bytes."""
    error = {"message": message, "type": error_type, "param": param, "code": code}
    # Half of a surrogate pair, which JSON can escape and UTF-8 cannot hold, becomes `?`.
    return json.dumps({"error": error}, ensure_ascii=False).encode("utf-8", "replace")


class BadRequest(RouterError):
    """The request cannot be understood or lacks something."""

    status = 400
    error_type = "invalid_request_error"
    code = "bad_request"


class MissingField(BadRequest):
    """A form field that is needed is not there or is empty."""

    code = "missing_required_parameter"


class UnreadableAudio(BadRequest):
    """The file is not audio that can be decoded."""

    code = "invalid_audio"


class UnknownAudioFormat(UnreadableAudio):
    """The file is in none of the formats that the router decodes; an engine may know it."""


class UnsupportedValue(BadRequest):
    """A form field asks for something that cannot be given."""

    code = "unsupported_value"


def no_word_times() -> UnsupportedValue:
    """Return the error that engines give no times of single words."""
    return UnsupportedValue(
        "The engines give no times of single words; ask for 'timestamp_granularities[]=segment'.",
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
    """No such route or engine."""

    status = 404
    error_type = "invalid_request_error"
    code = "not_found"


class UnknownModel(NotFound):
    """No engine serves the model."""

    code = "model_not_found"


class MethodNotAllowed(RouterError):
    """The route exists, the method does not."""

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
    """The fleet has more work waiting than it may promise to do."""

    status = 429
    error_type = "rate_limit_error"
    code = "queue_full"


class RateLimited(RouterError):
    """The client's key has used up its share."""

    status = 429
    error_type = "rate_limit_error"
    code = "rate_limit_exceeded"


class EnginesBusy(RouterError):
    """Every engine that could take the upload asks to be left alone for a while."""

    status = 429
    error_type = "rate_limit_error"
    code = "engines_busy"


class EngineFailed(RouterError):
    """Every engine that was tried failed."""

    status = 502
    error_type = "server_error"
    code = "engine_failed"


class EnginesDied(EngineFailed):
    """Two engines ended while they worked on the same upload.

    It may be what ended them, so nobody should send it again: the official SDKs, which repeat every
    502, heed `x-should-retry`.
    """

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that belong to the error besides its content type."""
        return [(b"x-should-retry", b"false")]


class NoEngineReady(RouterError):
    """The model is known, but no engine can take it now."""

    status = 503
    error_type = "server_error"
    code = "no_engine_ready"


class ShuttingDown(RouterError):
    """The router is draining and takes nothing new."""

    status = 503
    error_type = "server_error"
    code = "shutting_down"


class EngineTooSlow(RouterError):
    """An engine took the upload and did not answer in time."""

    status = 504
    error_type = "server_error"
    code = "engine_timeout"


class SpoolFull(RouterError):
    """There is no room left to hold the upload."""

    status = 503
    error_type = "server_error"
    code = "spool_full"
