"""What an operator may decide about the fleet."""

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
        max_windows: Windows of 30 s in service on an engine; None: learned (`auto`).
        limit_share: The part of each engine's limit that this process may fill, above 0 and up to
            1: 1/N for each of N worker processes.
        max_queue_audio_s: Seconds of audio that may wait per model; None: any.
        max_queue_wait_s: Expected or actual wait in seconds past which work is refused; None: any.
        ageing_s: Wait in seconds after which long work may go before short work.
        hedge_after_s: Wait in seconds after which an unanswered short request goes to a second
            engine as well; "auto": the 95th percentile of what short requests take; None: never.
        hedge_share: Hedges per short request at most.
        retry_share: Repeats per request of live traffic.
        retry_floor_per_s: Repeats per second that are always allowed.
        second_opinions_per_s: Refused uploads per second that may be given to one more engine.
        engine_wait_s: Seconds that work waits while no engine is in service.
        health: When engines are taken out.
        blame: Whether a refusal speaks against the upload or the engine.
        limits: How the learned limits are used.
        suspicion: When an unanswered call is overdue.
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
