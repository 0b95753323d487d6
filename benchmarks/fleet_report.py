"""What a run of `benchmarks.fleet` found: a table, the promises, two plots."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.mix import LONG_S, MIDDLE_S, SHORT_S

from vllm_router.scheduling.work import windows_of

OURS, ROBIN, LEAST = "vllm-router", "round robin", "HAProxy leastconn"
KINDS = {"short": SHORT_S, "middle": MIDDLE_S, "files": LONG_S}
# p99 of short requests over round robin's and over leastconn's; median of files over round robin's.
WANTED = (8.0, 2.5, 2.0)
EDGES_S = (2, 6, 12, 20, 30, 60, 150, 300, 600, 1800, 3600, 5400)


@dataclass(frozen=True, slots=True)
class Upload:
    """When it comes, in simulated seconds, and how long its audio is."""

    at: float
    audio_s: float


@dataclass(slots=True)
class Contender:
    """What takes uploads, and what came of them.

    Attributes:
        url: Where it listens.
        pid: Whose CPU is counted.
        answered: Simulated seconds until each upload was answered; None: not, or with an error.
        queue: (simulated seconds, windows waiting in it); only the router has a queue.
    """

    url: str
    pid: int
    answered: list[float | None] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    queue: list[tuple[float, float]] = field(default_factory=list)
    cpu_s: float = 0.0


def quantile(values: list[float], part: float) -> float:
    """Return a quantile; not a number if there is nothing."""
    values = sorted(values)
    return values[min(len(values) - 1, int(part * len(values)))] if values else float("nan")


def seconds_of(
    contender: Contender, coming: list[Upload], since_s: float, low_s: float, high_s: float
) -> list[float]:
    """Return the latencies of audio of some length; those without an answer are infinite."""
    return [
        float("inf") if answered is None else answered
        for upload, answered in zip(coming, contender.answered, strict=True)
        if upload.at >= since_s and low_s <= upload.audio_s <= high_s
    ]


def report(
    contenders: dict[str, Contender], coming: list[Upload], since_s: float
) -> tuple[str, dict[str, Any]]:
    """Return what came of it as Markdown and as figures."""
    figures: dict[str, Any] = {}
    counted = [upload.audio_s for upload in coming if upload.at >= since_s]
    counts = {
        kind: sum(low <= audio_s <= high for audio_s in counted)
        for kind, (low, high) in KINDS.items()
    }
    lines = [
        f"| seconds | up to 30 s ({counts['short']}): p50 | p95 | p99 "
        f"| 1 to 10 min ({counts['middle']}): p50 | p99 "
        f"| over 30 min ({counts['files']}): p50 | longest | failed | CPU |",
        "| --- |" + " --- |" * 9,
    ]
    for name, contender in contenders.items():
        kinds = {k: seconds_of(contender, coming, since_s, *KINDS[k]) for k in KINDS}
        row = {
            f"{kind}_p{round(100 * part)}": quantile(values, part)
            for kind, values in kinds.items()
            for part in (0.5, 0.95, 0.99, 1.0)
        }
        row |= {"failed": len(contender.errors), "cpu_s": contender.cpu_s}
        row["unanswered"] = sum(each is None for each in contender.answered) - row["failed"]
        figures[name] = row
        shown = ("short_p50", "short_p95", "short_p99", "middle_p50", "middle_p99", "files_p50",
                 "files_p100")  # fmt: skip
        lines.append(
            f"| {name} | "
            + " | ".join(f"{row[key]:.1f}" for key in shown)
            + f" | {row['failed'] + row['unanswered']} | {row['cpu_s']:.1f} s |"
        )
    figures["counts"] = counts
    return "\n".join(lines), figures


def verdict(figures: dict[str, Any]) -> tuple[str, bool]:
    """Say whether the promises for 80 % load are kept."""
    ours, robin, least = (figures[name] for name in (OURS, ROBIN, LEAST))
    found = (
        robin["short_p99"] / ours["short_p99"],
        least["short_p99"] / ours["short_p99"],
        robin["files_p50"] / ours["files_p50"],
    )
    figures["ratios"] = found
    is_kept = all(is_ >= wanted for is_, wanted in zip(found, WANTED, strict=True))
    words = (
        f"Short p99 {found[0]:.1f} times lower than round robin's and {found[1]:.1f} than "
        f"leastconn's; files {found[2]:.1f} times sooner than round robin's. "
        f"Wanted at 80 % {WANTED}: {'holds' if is_kept else 'DOES NOT HOLD'}."
    )
    return words, is_kept


def plot(
    contenders: dict[str, Contender], coming: list[Upload], since_s: float, folder: Path
) -> None:
    """Draw latency against length, and what is unanswered over time."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "fleet", "svg.fonttype": "none"}
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 3.8), sharex=True, sharey=True)
    for axes, part in zip(panels, (0.5, 0.95, 0.99), strict=True):
        for name, contender in contenders.items():
            points = [
                ((low * high) ** 0.5, quantile(found, part))
                for low, high in itertools.pairwise(EDGES_S)
                if (found := seconds_of(contender, coming, since_s, low, high))
            ]
            axes.plot(*zip(*points, strict=True), marker="o", ms=3, label=name)
        axes.set(title=f"p{part:.0%}"[:-1], xscale="log", yscale="log", xlabel="audio, s")
        axes.grid(True, which="both", alpha=0.25)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    panels[0].set_ylabel("seconds to the answer")
    panels[0].legend(fontsize=8)
    _save(figure, folder / "latency.svg")

    figure, axes = pyplot.subplots(figsize=(9, 3.8))
    for name, contender in contenders.items():
        steps = [(upload.at, windows_of(upload.audio_s)) for upload in coming]
        steps += [
            (upload.at + answered, -windows_of(upload.audio_s))
            for upload, answered in zip(coming, contender.answered, strict=True)
            if answered is not None
        ]
        steps.sort()
        held = np.cumsum([0, *(windows for _, windows in steps)])
        # Not each of ten thousand steps: a drawing of some kilobytes.
        ticks = np.linspace(0.0, steps[-1][0], 400)
        counts = held[np.searchsorted([at for at, _ in steps], ticks, side="right")]
        axes.plot(ticks, counts, label=f"{name}: not yet answered")
    if contenders[OURS].queue:
        axes.plot(*zip(*contenders[OURS].queue, strict=True), ":", label=f"{OURS}: in its queue")
    axes.set(xlabel="seconds", ylabel="windows of 30 s", ylim=(0, None))
    axes.axvline(since_s, color="grey", lw=0.8)
    axes.legend(fontsize=8)
    axes.grid(True, alpha=0.25)
    _save(figure, folder / "queue.svg")


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
