"""What is remembered of an upload's request, for its metrics, its trace and its line in the log."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm_router.proxy.facts import Task


@dataclass(slots=True)
class Story:
    """One upload's request, as far as it has come.

    Attributes:
        request_id: The client's own, or made.
        task: By the route.
        model: As engines know it; "" while unknown.
        audio_s: Seconds of audio; None while unknown.
        engines: Those that it was given to, each once.
        queue_s: Seconds that it, or its piece that waited longest, waited for engines.
        pieces: Pieces that it was cut into; 0: it went whole.
        whole_at: When the upload had come whole, monotonic seconds.
        holder: Whose key was presented; None: none was asked for.
        charged_s: Audio seconds charged to that key; None: not yet.
        error: The code of the error answered, also of one told within a stream.
    """

    request_id: str
    task: Task
    model: str = ""
    audio_s: float | None = None
    engines: list[str] = field(default_factory=list)
    queue_s: float = 0.0
    pieces: int = 0
    whole_at: float | None = None
    holder: str | None = None
    charged_s: float | None = None
    error: str | None = None

    def given_to(self, engine_id: str) -> None:
        """Note an engine that got the upload or a piece of it."""
        if engine_id not in self.engines:
            self.engines.append(engine_id)
