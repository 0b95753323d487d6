#!/usr/bin/env python3
"""Write helm/README.md: its text from README.md.tmpl, its table from the comments in values.yaml.

    scripts/helm_docs.py           write it
    scripts/helm_docs.py --check   say whether it is up to date; exit status 1 if not

A comment that begins with "# --" describes the key below it. A mapping none of whose keys is
described stands in one row; a key that nothing describes is an error.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

CHART = Path(__file__).resolve().parent.parent / "helm"
PLACE = "<!-- values -->\n"


class Undescribed(ValueError):
    """A key of values.yaml has no description."""


def described(lines: list[str], line: int) -> str | None:
    """Return the text of the "# --" comment that ends right above a line; None if there is none."""
    text: list[str] = []
    for above in reversed(lines[:line]):
        comment = above.strip()
        if not comment.startswith("#"):
            return None
        if comment.startswith("# --"):
            return " ".join([comment[4:].strip(), *text])
        text.insert(0, comment[1:].strip())
    return None


def rows(node: yaml.MappingNode, lines: list[str], path: str) -> Iterator[tuple[str, str, str]]:
    """Yield path, default as JSON and description of each key beneath a mapping, in their order.

    Raises:
        Undescribed: a key stands in no row and beneath no description.
    """
    for key, value in node.value:
        here = f"{path}.{key.value}" if path else key.value
        text = described(lines, key.start_mark.line)
        beneath: list[tuple[str, str, str]] = []
        if isinstance(value, yaml.MappingNode) and value.value:
            try:
                beneath = list(rows(value, lines, here))
            except Undescribed:
                if text is None:
                    raise
        if beneath:
            if text is not None:
                yield here, "", text
            yield from beneath
        elif text is None:
            raise Undescribed(f"values.yaml, line {key.start_mark.line + 1}: {here} is undescribed")
        else:
            default = yaml.safe_load(yaml.serialize(value))
            yield here, json.dumps(default, ensure_ascii=False), text


def table(values: str) -> str:
    """Return the Markdown tables of values.yaml, one for each of its parts."""
    root = yaml.compose(values)
    parts: dict[str, list[str]] = {}
    for path, default, text in rows(root, values.splitlines(), ""):
        first = path.split(".")[0]
        part = first if first in ("router", "engines", "monitoring") else "general"
        cells = [f"`{path}`", f"`{default}`" if default else "", text]
        row = "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        parts.setdefault(part, []).append(row)
    return "\n".join(
        f"### {part.capitalize()}\n\n| value | default | description |\n| --- | --- | --- |\n"
        + "\n".join(parts[part])
        + "\n"
        for part in parts
    )


def main() -> int:
    """Write or check; return the exit status."""
    try:
        values = table((CHART / "values.yaml").read_text())
    except Undescribed as error:
        print(f"helm_docs: {error}", file=sys.stderr)
        return 1
    new = (CHART / "README.md.tmpl").read_text().replace(PLACE, values)
    target = CHART / "README.md"
    if sys.argv[1:] == ["--check"]:
        if not target.exists() or target.read_text() != new:
            print(
                "helm_docs: helm/README.md is out of date; run scripts/helm_docs.py",
                file=sys.stderr,
            )
            return 1
        return 0
    target.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
