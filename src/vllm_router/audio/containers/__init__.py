"""One file per audio container: the duration that its first and last bytes state.

Each `*_seconds(head, size_bytes, tail)` returns None if the container does not state it. It may
read past the end of its input: `struct.error` and `IndexError` mean the same, and `audio.duration`,
the only caller, treats them so. Every loop is bounded, so that hostile bytes cost no more than
honest ones.
"""
