"""Media types in headers."""


def is_type(content_type: bytes, media_type: bytes) -> bool:
    """Whether a Content-Type is of a media type, whatever its parameters.

    Args:
        content_type: The header's value. Its case does not matter (RFC 9110, 8.3.1).
        media_type: Type and subtype in lower case.
    """
    size = len(media_type)
    if content_type[:size] != media_type and content_type[:size].lower() != media_type:
        return False
    return content_type[size : size + 1] in (b"", b";", b" ", b"\t")
