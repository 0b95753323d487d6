"""A hint cannot be used as a measured length: the type checker says so."""

from pathlib import Path

from mypy import api

_USES = """
from vllm_router.audio.length import LengthHint, MeasuredSeconds

def shown(length_s: MeasuredSeconds) -> None: ...

hint = LengthHint(3.0)
shown(MeasuredSeconds(3.0))
{use}
"""


def complaints(use: str, folder: Path) -> str:
    path = folder / "uses.py"
    path.write_text(_USES.format(use=use))
    said, failure, _ = api.run(["--strict", "--no-error-summary", str(path)])
    assert not failure
    return said


def test_a_hint_and_a_number_are_no_measured_length(tmp_path: Path) -> None:
    assert complaints("", tmp_path) == ""
    said = complaints("shown(hint)\nshown(hint.seconds)\nshown(3.0)", tmp_path)
    assert said.count("[arg-type]") == 3


def test_a_hint_is_no_number(tmp_path: Path) -> None:
    assert complaints("hint + 1.0\nhint > 30.0", tmp_path).count("[operator]") == 2
