"""Finding a few bytes in many, by the C library: three times as fast as `bytearray.find`.

That falls back to an algorithm without vector instructions for a boundary in an upload, and was an
eighth of what one of 1.27 MB costs.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

#: Below this a call into the C library costs more than it saves.
WORTH_A_CALL_BYTES: Final = 4096

_Bytes: Final[Any] = ctypes.c_char * 0


def _memmem() -> Any:
    # PyDLL keeps the interpreter's lock: to give it up for some microseconds would cost more.
    found = getattr(ctypes.PyDLL(None), "memmem", None)
    if found is not None:
        found.restype = ctypes.c_void_p
        found.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
    return found


_search: Final[Any] = _memmem()


def find(data: bytes | bytearray, needle: bytes, start: int, end: int) -> int:
    """Return where a needle first lies whole in `data[start:end]`, -1 if nowhere.

    Args:
        data: Where to look.
        needle: Not empty.
        start: Offset in data.
        end: Offset in data, not past its end.
    """
    if end - start < WORTH_A_CALL_BYTES or _search is None or not isinstance(data, bytearray):
        return data.find(needle, start, end)
    address: int = ctypes.addressof(_Bytes.from_buffer(data))
    found: int | None = _search(address + start, end - start, needle, len(needle))
    return -1 if found is None else found - address
