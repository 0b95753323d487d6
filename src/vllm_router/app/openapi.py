"""OpenAPI descriptions of the upload routes.

Uploads take the direct path, before FastAPI, which therefore cannot describe them. These
descriptions complete `/docs`, with a form for trying an upload. Text fields have an empty example;
otherwise each would contain "string".
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
    "400": "The request is malformed, or the audio cannot be decoded.",
    "401": "The key is missing or wrong.",
    "404": "No engine serves the model.",
    "408": "The client stopped sending the upload.",
    "413": "The upload is too large.",
    "429": "The queue is full; Retry-After says when to try again.",
    "431": "The request's headers are too large.",
    "500": "The engines failed to process the upload.",
    "502": "Every engine tried has failed.",
    "503": "No engine is ready; Retry-After says when to try again.",
    "504": "No engine answered in time.",
}

_COMMON: dict[str, Any] = {
    "file": {"type": "string", "format": "binary", "description": "The audio file, in any format."},
    "model": {
        "type": "string",
        "description": "A model or alias from /v1/models; required if there are several.",
        "example": "",
    },
    "prompt": {
        "type": "string",
        "description": "Text that guides style and spelling.",
        "example": "",
    },
    "response_format": {"type": "string", "enum": _FORMATS, "default": "json"},
    "channels": {
        "type": "string",
        "enum": ["", "mix", "left", "right", "each"],
        "description": "Which channels to transcribe; 'each' is for one speaker per channel, and "
        "required for diarized_json. Defaults to the router's --channels.",
        "example": "",
    },
    "temperature": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
}

_TRANSCRIPTION: dict[str, Any] = {
    "language": {
        "type": "string",
        "description": "ISO 639-1 code; detected by the engine if omitted.",
        "example": "",
    },
    "timestamp_granularities[]": {
        "type": "array",
        "items": {"type": "string", "enum": ["segment", "word"]},
        "default": [],
    },
    "stream": {"type": "boolean", "default": False, "description": "Stream the text as events."},
}


def with_uploads(document: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI document with the upload routes added."""
    document.setdefault("paths", {}).update(
        {
            "/v1/audio/transcriptions": {
                "post": _operation("transcriptions", "Transcribe audio", _COMMON | _TRANSCRIPTION)
            },
            "/v1/audio/translations": {
                "post": _operation("translations", "Translate audio into English", _COMMON)
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
            "description": "The transcript in the requested format.",
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
