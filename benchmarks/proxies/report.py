"""What a run found, as a table in Markdown, as JSON, and as a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.proxies.load import Speed


def summary(rounds: list[Speed]) -> dict[str, Any]:
    """Return the medians over the rounds of one target in one case."""
    costs = [s.cpu_ms for s in rounds if s.cpu_ms is not None]
    return {
        "cpu_ms": median(costs) if costs else None,
        "cpu_ms_rounds": costs,
        "per_s": median(s.per_s for s in rounds),
        "p50_ms": median(s.p50_ms for s in rounds),
        "p99_ms": median(s.p99_ms for s in rounds),
        "uploads": sum(s.requests for s in rounds),
        "failed": sum(s.failed for s in rounds),
    }


def tables(found: dict[str, Any]) -> str:
    """Return everything found as Markdown."""
    parts: list[str] = []
    if found.get("speed"):
        parts.append(_speed_tables(found["speed"]))
    if found.get("memory"):
        rows = [
            (
                name, case, f"{m['growth_bytes'] / 1e6:.0f} MB", f"{m['spool_bytes'] / 1e6:.0f} MB",
                f"{m['seconds']:.1f} s", str(m["answered"]),
            )
            for case, by_name in found["memory"].items()
            for name, m in by_name.items()
        ]  # fmt: skip
        parts.append(_table(("proxy", "uploads", "memory", "spool", "took", "answered"), rows))
    scaling = found.get("scaling")
    if scaling:
        compared = [
            (
                f"{c['few']:,} or {c['many']:,} {c['of']}", f"{c['cpu_ms_few']:.3f} ms",
                f"{c['cpu_ms_many']:.3f} ms", f"{c['ratio']:.2f}", str(c["failed"]),
            )
            for c in scaling["compared"]
        ]  # fmt: skip
        parts.append(_table(("with", "CPU per upload", "and", "ratio", "failed"), compared))
        idle = scaling["idle"]
        parts.append(
            f"Idle with {idle['engines']:,} engines: {idle['core_share']:.1%} of a core.\n"
        )
    if found.get("workers"):
        parts.append(_workers_tables(found["workers"]))
    return "\n".join(parts)


def _workers_tables(workers: dict[str, Any]) -> str:
    rows = [
        (
            str(c["connections"]), f"{c['cpu_ms_apart']:.3f} ms", f"{c['cpu_ms_shared']:.3f} ms",
            f"{c['busier']:.0%}", f"{c['busier_worst']:.0%}", f"{c['carry']:.2f}",
            str(c["failed"]),
        )
        for c in workers["shared"]
    ]  # fmt: skip
    names = (
        "connections", "CPU per upload, 2 routers", "2 workers", "the busier one's part",
        "in the worst round", "2 workers carry", "failed",
    )  # fmt: skip
    d = workers["dear"]
    return (
        f"{_table(names, rows)}\nUploads that take {d['cpu_ms_one']:.1f} ms each: "
        f"{d['per_s_one']:.0f} per second with 1 worker on {d['cores_one']:.2f} cores, "
        f"{d['per_s_many']:.0f} with 2 on {d['cores_many']:.2f}: {d['ratio']:.2f} times as many, "
        f"{d['failed']} failed.\n"
    )


def _speed_tables(cases: dict[str, dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for by_name in cases.values() for name in by_name))

    def row(name: str, key: str, digits: int) -> tuple[str, ...]:
        cells = [cases[case].get(name, {}).get(key) for case in cases]
        return (name, *("-" if cell is None else f"{cell:.{digits}f}" for cell in cells))

    out = []
    for title, key, digits in (
        ("CPU per upload, ms", "cpu_ms", 3),
        ("uploads per second", "per_s", 0),
        ("p50, ms", "p50_ms", 2),
        ("p99, ms", "p99_ms", 2),
        ("failed", "failed", 0),
    ):
        rows = [row(name, key, digits) for name in names]
        out.append(_table((title, *cases), [r for r in rows if set(r[1:]) != {"-"}]))
    return "\n".join(out)


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = ["| " + " | ".join(headings) + " |"]
    lines.append("|" + " --- |" * (lines[0].count("|") - 1))
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw the CPU per upload of every proxy in every case."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    cases = found["speed"]
    figure, axes = plt.subplots(1, len(cases), figsize=(3.6 * len(cases), 3.2), squeeze=False)
    for axis, (case, by_name) in zip(axes[0], cases.items(), strict=True):
        bars = [(name, each["cpu_ms"]) for name, each in by_name.items() if each["cpu_ms"]]
        bars.reverse()
        # A logarithmic scale would hide what is compared; the slow ones run off the edge instead.
        edge = 3 * median(value for _, value in bars)
        colours = ["#d1495b" if name == "vllm-router" else "#8d99ae" for name, _ in bars]
        axis.barh([n for n, _ in bars], [min(v, edge) for _, v in bars], color=colours)
        for i, (_, value) in enumerate(bars):
            label = f" {value:.2f}" + (" (cut off)" if value > edge else "")
            axis.text(min(value, edge), i, label, va="center", size=8)
        axis.set_xlim(0, 1.35 * edge)
        axis.set_title(case, size=9)
        axis.set_xlabel("CPU per upload, ms", size=8)
        axis.tick_params(labelsize=8)
        if axis is not axes[0][0]:
            axis.set_yticklabels([])
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def write(found: dict[str, Any], folder: Path) -> str:
    """Write bench.json, bench.md and bench.svg into a folder; return the tables."""
    text = tables(found)
    (folder / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "bench.md").write_text(text)
    if found.get("speed"):
        plot(found, folder / "bench.svg")
    return text
