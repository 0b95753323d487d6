"""Whether this router runs compiled; see scripts/compile.py for what that is."""

from __future__ import annotations

from vllm_router.spool import multipart


def how_it_runs() -> str:
    """Return "compiled" if the modules that every upload goes through are, else "interpreted"."""
    return "interpreted" if (multipart.__file__ or "").endswith(".py") else "compiled"
