"""A MOV whose track says that its samples lie in another file."""

import struct


def _boxes(data: bytes, at: int, end: int) -> dict[bytes, tuple[int, int]]:
    found = {}
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        found[kind] = (at, at + size)
        at += size
    return found


def referring(mov: bytes, path: bytes) -> bytes:
    """Return a MOV with its index last, whose sound track refers to `path` by an alias.

    Args:
        mov: As ffmpeg writes it, with one track.
        path: Absolute.
    """
    name = path.rsplit(b"/", 1)[-1][:63]
    record = bytes(10) + bytes([1]) + b"/".ljust(27, b"\0") + bytes(12)
    record += bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16) + struct.pack(">HH", 1, 1)
    record += bytes(16)
    for kind, value in ((2, path.lstrip(b"/")), (18, path)):
        record += struct.pack(">HH", kind, len(value)) + value + b"\0" * (len(value) & 1)
    record += struct.pack(">HH", 0xFFFF, 0)
    alias = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    dref = struct.pack(">I4sII", 16 + len(alias), b"dref", 0, 1) + alias
    parents = []
    at, end = 0, len(mov)
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at, end = _boxes(mov, at, end)[kind]
        parents.append(at)
        if kind != b"dref":
            at += 8
    out = bytearray(mov[: parents[-1]] + dref + mov[end:])
    for parent in parents[:-1]:
        size = struct.unpack_from(">I", out, parent)[0] + len(dref) - (end - parents[-1])
        struct.pack_into(">I", out, parent, size)
    return bytes(out)
