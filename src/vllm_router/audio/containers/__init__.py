"""One file per audio container: how many seconds its first and last bytes tell of.

Each `*_seconds(head, size_bytes, tail)` answers None when the container does not say. It may run
off the end of what it was given: `struct.error` and `IndexError` mean the same, and
`audio.duration`, their only caller, treats them so. Every loop has a bound, so that hostile bytes
cost no more than honest ones.
"""
