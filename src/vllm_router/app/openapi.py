"""The upload routes as OpenAPI sees them.

They are served on the direct path, before FastAPI, so FastAPI cannot describe them; these
descriptions make `/docs` complete, with a form in which an upload can be tried. Texts have an empty
example, because the form would else begin with "string" in each.
"""

from __future__ import annotations

from typing import Any

_FORMATS = ["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": ["string", "null"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}

_FAILURES = {
    "400": "The request cannot be understood, or the audio cannot be decoded.",
    "401": "The key is missing or wrong.",
    "404": "No engine serves the model.",
    "408": "The upload stopped coming.",
    "413": "The upload is too large.",
    "429": "The queue is full; Retry-After says when to try again.",
    "431": "The request's headers are too large.",
    "500": "The engines failed at this upload.",
    "502": "Every engine that was tried failed.",
    "503": "No engine is ready; Retry-After says when to try again.",
    "504": "No engine answered in time.",
}

_COMMON: dict[str, Any] = {
    "file": {"type": "string", "format": "binary", "description": "The audio, in any format."},
    "model": {
        "type": "string",
        "description": "A model or alias that /v1/models names; needed where there are several.",
        "example": "",
    },
    "prompt": {
        "type": "string",
        "description": "Words that guide the style and spelling.",
        "example": "",
    },
    "response_format": {"type": "string", "enum": _FORMATS, "default": "json"},
    "channels": {
        "type": "string",
        "enum": ["", "mix", "left", "right", "each"],
        "description": "Which channels are transcribed; 'each' is for one speaker per channel, and "
        "needed for diarized_json. By default the router's --channels.",
        "example": "",
    },
    "temperature": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
}

_TRANSCRIPTION: dict[str, Any] = {
    "language": {
        "type": "string",
        "description": "ISO 639-1; found by the engine if not given.",
        "example": "",
    },
    "timestamp_granularities[]": {
        "type": "array",
        "items": {"type": "string", "enum": ["segment", "word"]},
        "default": [],
    },
    "stream": {"type": "boolean", "default": False, "description": "Send the words as they come."},
}


def with_uploads(document: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI document with the upload routes added."""
    document.setdefault("paths", {}).update(
        {
            "/v1/audio/transcriptions": {
                "post": _operation("transcriptions", "Words of an audio", _COMMON | _TRANSCRIPTION)
            },
            "/v1/audio/translations": {
                "post": _operation("translations", "Words of an audio, in English", _COMMON)
            },
        }
    )
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})["Error"] = _ERROR
    components.setdefault("securitySchemes", {})["key"] = {"type": "http", "scheme": "bearer"}
    return document


def _operation(name: str, summary: str, fields: dict[str, Any]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses: dict[str, Any] = {
        "200": {
            "description": "The transcript in the format asked for.",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "text/plain": {"schema": {"type": "string"}},
                "text/event-stream": {"schema": {"type": "string"}},
            },
        }
    }
    responses |= {
        status: {"description": text, "content": error} for status, text in _FAILURES.items()
    }
    return {
        "tags": ["audio"],
        "summary": summary,
        "operationId": name,
        "security": [{}, {"key": []}],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file"],
                        "properties": fields,
                        "additionalProperties": True,
                    },
                }
            },
        },
        "responses": responses,
    }
