"""Media types in headers."""

from typing import Final

_ENDS: Final = (b";", b" ", b"\t")


def is_type(content_type: bytes, media_type: bytes) -> bool:
    """Return whether a Content-Type has a media type, ignoring its parameters.

    Args:
        content_type: The header's value, in any case (RFC 9110, 8.3.1).
        media_type: Type and subtype in lower case.
    """
    if content_type == media_type:
        return True
    size = len(media_type)
    if not content_type.lower().startswith(media_type):
        return False
    return len(content_type) == size or content_type[size : size + 1] in _ENDS
