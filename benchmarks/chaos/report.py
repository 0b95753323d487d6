"""What came of a run, as a table for people and as JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from benchmarks.chaos.judge import Kind, Verdict
from benchmarks.chaos.uploads import Request


class Report:
    """Counts verdicts."""

    def __init__(self) -> None:
        self.kinds: Counter[Kind] = Counter()
        self.whys: dict[Kind, Counter[str]] = defaultdict(Counter)
        self.asked: dict[str, Counter[Kind]] = defaultdict(Counter)
        self.examples: list[str] = []
        self.seconds: list[float] = []

    def add(self, request: Request, verdict: Verdict, seconds: float, where: str) -> None:
        """Count one request."""
        self.kinds[verdict.kind] += 1
        if verdict.why:
            self.whys[verdict.kind][verdict.why] += 1
        name = request.kind
        options = request.response_format + (f", {request.stream} stream" if request.stream else "")
        for key in (name, options):
            self.asked[key][verdict.kind] += 1
        if verdict.kind is Kind.RIGHT:
            self.seconds.append(seconds)
        if verdict.kind is Kind.BROKEN and len(self.examples) < 40:
            self.examples.append(
                f"c{request.number} ({name}, {options}, {seconds:.2f} s, {where}): {verdict.why}"
            )

    @property
    def total(self) -> int:
        """Requests accounted for."""
        return sum(self.kinds.values())

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        return {
            "requests": self.total,
            "kinds": {kind.value: self.kinds[kind] for kind in Kind},
            "why": {kind.value: dict(whys.most_common()) for kind, whys in self.whys.items()},
            "asked": {name: dict(counts) for name, counts in sorted(self.asked.items())},
            "seconds_to_answer": {f"p{p}": self._percentile(p) for p in (50, 90, 99, 100)},
            "violations": self.examples,
        }

    def _percentile(self, p: int) -> float | None:
        if not self.seconds:
            return None
        ordered = sorted(self.seconds)
        return round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 3)

    def table(self) -> str:
        """Return the figures in Markdown."""
        lines = ["| what became of them | requests | share |", "| --- | --- | --- |"]
        for kind in Kind:
            count = self.kinds[kind]
            lines.append(f"| **{kind.value}** | {count:,} | {count / max(1, self.total):.3%} |")
            for why, times in self.whys[kind].most_common():
                lines.append(f"| – {why} | {times:,} | {times / max(1, self.total):.3%} |")
        lines.append(f"| all | {self.total:,} | |")
        return "\n".join(lines)
