"""Write the tables of the documentation from the code, or check that they are up to date.

    scripts/docs.py            write them
    scripts/docs.py --check    fail if they differ

Between `<!-- made: NAME -->` and `<!-- end -->` in a Markdown file stands what `NAME` makes.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from vllm_router.app.build import build_router
from vllm_router.cli import default_text, flag_of
from vllm_router.scheduling.engine_states import state_diagram
from vllm_router.settings import Settings

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def flags() -> str:
    """Return the table of flags, by group."""
    lines = []
    group = ""
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        if extra["group"] != group:
            group = str(extra["group"])
            lines += ["", f"**{group}**", "", "| flag | default | description |"]
            lines.append("| --- | --- | --- |")
        text = (field.description or "").replace("|", "\\|")
        default = default_text(field)
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{flag_of(name)}` | {shown} | {text} |")
    return "\n".join(lines[1:]) + "\n"


def metrics() -> str:
    """Return the table of metrics."""
    settings = Settings(static_backends=("http://localhost:8000",))
    router = build_router(settings)
    lines = ["| metric | type | labels | description |", "| --- | --- | --- | --- |"]
    rows = {}
    for collector in router.metrics.registry._collector_to_names:
        labels = {}
        if isinstance(collector, MetricWrapperBase):
            labels = {"*": collector._labelnames}
        for family in collector.collect():
            names = labels.get("*") or getattr(family, "_labelnames", ())
            suffix = "_total" if family.type == "counter" else ""
            shown = ", ".join(f"`{label}`" for label in names)
            rows[family.name + suffix] = (
                f"| `{family.name}{suffix}` | {family.type} | {shown} | {family.documentation} |"
            )
    for spool in router.spools:
        spool.close()
    return "\n".join(lines + [rows[name] for name in sorted(rows)]) + "\n"


def states() -> str:
    """Return the diagram of an engine's life."""
    return f"```mermaid\n{state_diagram()}```\n"


MAKERS: dict[str, Callable[[], str]] = {"flags": flags, "metrics": metrics, "states": states}


def remade(text: str) -> str:
    """Return a document with its blocks made anew."""
    return _BLOCK.sub(lambda m: m[1] + MAKERS[m[2]]() + m[3], text)


def main() -> int:
    """Write or check; 1 if a document is out of date."""
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        before = path.read_text()
        after = remade(before)
        if before == after:
            continue
        if "--check" in sys.argv:
            stale.append(path.relative_to(ROOT))
        else:
            path.write_text(after)
    for path in stale:
        print(f"{path} is out of date: run scripts/docs.py")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
