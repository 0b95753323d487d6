"""Whether this router runs compiled code; scripts/compile.py explains what that is."""

from __future__ import annotations

from vllm_router.spool import multipart


def how_it_runs() -> str:
    """Return "compiled" if the modules on every upload's path are, else "interpreted"."""
    return "interpreted" if (multipart.__file__ or "").endswith(".py") else "compiled"
