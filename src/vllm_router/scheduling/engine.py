"""One engine as the router knows it: its spec, state, load and observed behavior.

Only the fleet writes here. Counters, not lists: an engine does not know which requests it holds,
only how many and how long they are.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NewType
from zlib import crc32

from vllm_router.scheduling.blame import RefusalRecord
from vllm_router.scheduling.capabilities import Capabilities
from vllm_router.scheduling.concurrency_limit import Holding
from vllm_router.scheduling.engine_states import EngineState
from vllm_router.scheduling.service_curve import ServiceCurve
from vllm_router.scheduling.withholding import Withholding

if TYPE_CHECKING:
    from vllm_router.scheduling.engine_metrics import EngineStats

__all__ = ["Engine", "EngineId", "EngineSpec", "EngineState", "ProbeResult", "Transition"]

EngineId = NewType("EngineId", str)


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine's description from discovery.

    Attributes:
        engine_id: The URL of a static engine; namespace/name/uid of a pod.
        url: Scheme, host, port and optional path prefix, without a trailing slash.
        models: Names of the models that it serves; None if the engine must be asked.
        model_type: Value of `--static-model-types`.
        label: Value of `--static-model-labels`.
        weight: Speed relative to other engines, above 0; a hint until its speed is measured.
        gpu: GPU type, for display and for estimates from peers of the same type.
        capabilities: Stated capabilities; None if none are stated.
    """

    engine_id: EngineId
    url: str
    models: tuple[str, ...] | None = None
    model_type: str = "transcription"
    label: str | None = None
    weight: float = 1.0
    gpu: str | None = None
    capabilities: Capabilities | None = None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of an engine's last probe.

    Attributes:
        is_ok: Whether it passed.
        seconds: Duration in seconds.
        at: When it ended, monotonic seconds.
        error: Reason for the failure, one sentence.
        is_timeout: Whether it timed out, which a busy or cold engine may do.
        is_denied: Whether the engine denied the router access.
    """

    is_ok: bool
    seconds: float
    at: float
    error: str | None = None
    is_timeout: bool = False
    is_denied: bool = False


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of an engine's state; the caller logs one warning for each."""

    engine_id: EngineId
    before: EngineState
    after: EngineState
    why: str


class Engine:
    """One engine.

    Attributes:
        spec: Latest description from discovery.
        lot: Stable hash of the ID, the same in every router.
        state: Current state.
        models: Names of the models that it serves, as far as known.
        max_model_lens: Context lengths in tokens by model name, as far as the engine reports them.
        in_flight: Requests charged to it.
        windows_in_flight: Their windows of 30 s.
        audio_s_in_flight: Their seconds of audio.
        suspects: Number of them that are uploads on which an engine has crashed.
        crowded_at: When it last held several suspects, monotonic seconds.
        elsewhere: Windows that other routers have in flight there, estimated from scrapes.
        part: This router's share of the engine's work, with some slack.
        load: `windows_in_flight + elsewhere`.
        stats: The last scrape; None if there was none or it failed.
        last_probe: The last probe; None before the first.
        last_error: The last error, one sentence; None if there was none.
        curve: Service curve learned from its responses.
        intercept_s: Load-independent part of a window's time, in seconds, estimated from its own
            and its peers' responses.
        slope_s: Seconds that each window in service adds to the time of a window, estimated alike.
        holding: How many windows it holds at a time, from its own metrics.
        limit: Windows that it may have in service in total.
        long_limit: Windows in service up to which it accepts segments of long audio.
        cap: This router's own windows below which it accepts short work now; 0 for none.
        long_cap: The same for segments of long audio.
        ready_since: When it last became ready; None if never.
        out_since: When it was discovered, or was last in order (ready, sleeping, draining).
        ejected_until: End of its current or last ejection, monotonic seconds.
        ejections: Ejections that still count toward the next one's length.
        is_on_trial: Gets one request at a time until it answers one well.
        is_warm: Has ramped up to its full limit since it returned.
        is_withdrawn: No longer listed by discovery.
        record: Its bad answers since the last good one.
        rests: Consecutive requests for a rest.
        rests_until: End of its current or last rest, monotonic seconds.
        unfit: Kinds of upload that it refuses although other engines serve them.
        withheld: Models that it lists but answers with 404, and for each the time until which it
            gets no work for it, monotonic seconds.
        suspected_at: When a call to it was found overdue, monotonic seconds; None once it has
            answered or passed a probe.
    """

    __slots__ = (
        "area",
        "area_at",
        "audio_s_in_flight",
        "cap",
        "crowded_at",
        "curve",
        "ejected_until",
        "ejections",
        "elsewhere",
        "failed_answers",
        "failed_probes",
        "held_for",
        "holding",
        "in_flight",
        "index",
        "intercept_s",
        "is_on_trial",
        "is_warm",
        "is_withdrawn",
        "last_error",
        "last_ok_at",
        "last_probe",
        "limit",
        "load",
        "long_cap",
        "long_limit",
        "lot",
        "max_model_lens",
        "models",
        "next_window_s",
        "others",
        "out_since",
        "part",
        "pools",
        "ready_since",
        "record",
        "rests",
        "rests_until",
        "scrapes",
        "slope_s",
        "slow_answers",
        "spec",
        "state",
        "stats",
        "suspected_at",
        "suspects",
        "trial_at",
        "turn",
        "unfit",
        "windows_in_flight",
        "withheld",
    )

    def __init__(self, spec: EngineSpec, index: int) -> None:
        self.spec = spec
        self.index = index
        self.lot = crc32(spec.engine_id.encode())
        self.state = EngineState.DISCOVERED
        self.models: tuple[str, ...] = spec.models or ()
        self.max_model_lens: dict[str, int] = {}
        self.in_flight = 0
        self.windows_in_flight = 0
        self.audio_s_in_flight = 0.0
        self.suspects = 0
        self.crowded_at = -math.inf
        self.elsewhere = 0.0
        self.others = 0.0
        self.scrapes = 0
        self.part = 1.0
        self.load = 0.0
        self.stats: EngineStats | None = None
        self.last_probe: ProbeResult | None = None
        self.last_error: str | None = None
        self.curve = ServiceCurve(spec.weight)
        self.intercept_s = self.curve.intercept_s
        self.slope_s = self.curve.slope_s
        self.next_window_s = self.curve.window_s(1.0)
        self.holding = Holding()
        self.limit = 1.0
        self.long_limit = 1.0
        self.cap = 0.0
        self.long_cap = 0.0
        self.turn = 0
        self.ready_since: float | None = None
        self.out_since = 0.0
        self.ejected_until = 0.0
        self.ejections = 0
        self.failed_answers = 0
        self.failed_probes = 0
        self.slow_answers = 0
        self.last_ok_at: float | None = None
        self.is_on_trial = False
        self.is_warm = True
        self.trial_at = 0.0
        self.is_withdrawn = False
        self.suspected_at: float | None = None
        self.record = RefusalRecord()
        self.rests = 0
        self.rests_until = -math.inf
        self.unfit = Withholding()
        self.withheld: dict[str, float] = {}
        self.held_for: object | None = None
        self.area = 0.0
        self.area_at = 0.0
        self.pools: tuple[Pool, ...] = ()

    @property
    def engine_id(self) -> EngineId:
        """The engine's ID."""
        return self.spec.engine_id

    @property
    def speed(self) -> float:
        """Estimated throughput at full load, in windows per second."""
        return 1.0 / self.slope_s

    @property
    def half_at(self) -> float:
        """Estimated windows in service at which half of that throughput is reached."""
        return self.intercept_s / self.slope_s

    def __repr__(self) -> str:
        return (
            f"<Engine {self.spec.engine_id} {self.state.value} in_flight={self.in_flight}"
            f" windows={self.windows_in_flight}/{self.limit:.0f}>"
        )


if TYPE_CHECKING:
    from vllm_router.scheduling.pool import Pool
