"""Write the tables of docs/formats.md: what becomes of files of every kind.

    scripts/formats.py         make the files with ffmpeg, look at them, write the tables

The files are those of the tests (tests/audio_files.py, tests/file_cases.py), so each row is held by
them. It takes a minute, so `scripts/check` does not do it; a test checks that every file has its
row.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.audio_files import KINDS, make_kind  # noqa: E402
from tests.file_cases import CASES  # noqa: E402

from vllm_router.audio.decoding.decoder import memory_file  # noqa: E402
from vllm_router.audio.decoding.samples import ByteRange, NotAudio, read_samples  # noqa: E402
from vllm_router.audio.duration import (  # noqa: E402
    HEAD_BYTES,
    TAIL_BYTES,
    audio_seconds,
    container_kind,
    tail_offset,
)
from vllm_router.audio.length_doubt import length_doubt  # noqa: E402
from vllm_router.audio.upload_faults import audio_damage, is_whole_wav, plain_wav  # noqa: E402
from vllm_router.local.audio import RATE_HZ, decode  # noqa: E402
from vllm_router.local.errors import ApiError  # noqa: E402

SECONDS = 7.5
_BLOCK = re.compile(r"(<!-- files: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_HEAD = "| file | its header tells | an engine's PyAV reads | the router reads | how it is sent |\n"
_RULE = "| --- | --- | --- | --- | --- |\n"


def row(what: str, data: bytes) -> str:
    """Return one file's row."""
    head = data[:HEAD_BYTES]
    at = tail_offset(head, len(data))
    tail = data[at : at + TAIL_BYTES]
    kind, seconds = container_kind(head), audio_seconds(head, len(data), tail)
    told = "nothing" if seconds is None else f"{seconds:.1f} s"
    damage = audio_damage(head, len(data), tail)
    if plain_wav(head, len(data)) or (kind == "wav" and is_whole_wav(head, len(data), tail)):
        sent = "as it came; its bytes measure it"
    elif (doubt := damage or length_doubt(kind, head, len(data), tail, seconds)) is None:
        sent = "as it came"
    else:
        sent = "damaged: decoded" if damage else f"decoded: {doubt}"
    ours = _ours(data)
    if ours == "no":
        sent = "refused"
    return f"| {what} | {told} | {_theirs(data)} | {ours} | {sent} |\n"


def _ours(data: bytes) -> str:
    file = memory_file(data)
    try:
        size = sum(map(len, read_samples(ByteRange(file, 0, len(data)), 86_400.0)))
    except NotAudio:
        return "no"
    finally:
        os.close(file)
    return f"{size / 2 / RATE_HZ:.1f} s"


def _theirs(data: bytes) -> str:
    try:
        return f"{len(decode(data)) / RATE_HZ:.1f} s"
    except ApiError:
        return "no"


def tables() -> dict[str, str]:
    """Return the tables by name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = {kind: make_kind(folder, kind, SECONDS).read_bytes() for kind in KINDS}
        plain = "".join(row(f"`{kind}`", data) for kind, data in kinds.items())
        odd = "".join(row(case.what, case.make(folder, SECONDS)) for case in CASES.values())
    return {"kinds": _HEAD + _RULE + plain, "cases": _HEAD + _RULE + odd}


def main() -> None:
    """Write the tables."""
    made = tables()
    path = ROOT / "docs" / "formats.md"
    text = path.read_text()
    path.write_text(_BLOCK.sub(lambda found: found[1] + made[found[2]] + found[3], text))


if __name__ == "__main__":
    main()
