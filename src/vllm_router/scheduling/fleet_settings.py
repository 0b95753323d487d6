"""The operator's settings for the fleet."""

from dataclasses import dataclass, field
from typing import Literal

from vllm_router.scheduling.blame import BlameRules
from vllm_router.scheduling.concurrency_limit import LimitRules
from vllm_router.scheduling.health import HealthRules
from vllm_router.scheduling.suspicion import SuspicionRules


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """The fleet's settings.

    Attributes:
        policy: A name in the table of policies.
        max_windows: Windows of 30 s in service per engine; None means learned (`auto`).
        limit_share: Share of each engine's limit that this process may use, above 0 and up to 1:
            1/N for each of N worker processes.
        max_queue_audio_s: Seconds of audio that may be queued per model; None means no limit.
        max_queue_wait_s: Expected or actual wait beyond which work is refused, in seconds; None
            means no limit.
        ageing_s: Wait after which long work may go before short work, in seconds.
        hedge_after_s: Wait after which an unanswered short request also goes to a second engine,
            in seconds; "auto" means the 95th percentile of short requests; None means never.
        hedge_share: Maximum hedges per short request.
        retry_share: Retries per request of live traffic.
        retry_floor_per_s: Retries per second that are always allowed.
        second_opinions_per_s: Refused uploads per second that may go to one more engine.
        engine_wait_s: How long work waits while no engine is in service, in seconds.
        health: Rules for ejecting engines.
        blame: Rules for attributing a refusal to the upload or the engine.
        limits: Rules for applying the learned limits.
        suspicion: Rules for when an unanswered call is overdue.
    """

    policy: str = "least-loaded"
    max_windows: int | None = None
    limit_share: float = 1.0
    max_queue_audio_s: float | None = 36_000.0
    max_queue_wait_s: float | None = 120.0
    ageing_s: float = 30.0
    hedge_after_s: float | Literal["auto"] | None = None
    hedge_share: float = 0.05
    retry_share: float = 0.2
    retry_floor_per_s: float = 3.0
    second_opinions_per_s: float = 10.0
    engine_wait_s: float = 5.0
    health: HealthRules = field(default_factory=HealthRules)
    blame: BlameRules = field(default_factory=BlameRules)
    limits: LimitRules = field(default_factory=LimitRules)
    suspicion: SuspicionRules = field(default_factory=SuspicionRules)
