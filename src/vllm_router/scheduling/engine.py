"""One engine as the router knows it: what discovery said, its state, what it holds, has shown.

Only the fleet writes here; others read. Counters, not lists: an engine does not know which requests
it holds, only how many and how long they are.
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
    """What discovery says of an engine.

    Attributes:
        engine_id: The url for a static engine, namespace/name/uid for a pod.
        url: Scheme, host, port and maybe a path prefix; no slash at the end.
        models: Names that it serves; None: it has to be asked.
        model_type: As given to `--static-model-types`.
        label: As given to `--static-model-labels`.
        weight: Speed relative to other engines, above 0; a hint until its speed is measured.
        gpu: Kind of GPU, for humans.
        capabilities: What the engine is stated to be able to do; None: nothing is.
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
    """The last probe of an engine.

    Attributes:
        is_ok: Whether it passed.
        seconds: How long it took.
        at: When it ended, monotonic seconds.
        error: Why it failed, one sentence.
        is_timeout: Whether it failed for being slow, which a busy or cold engine may be.
        is_denied: Whether the engine does not let the router in.
    """

    is_ok: bool
    seconds: float
    at: float
    error: str | None = None
    is_timeout: bool = False
    is_denied: bool = False


@dataclass(frozen=True, slots=True)
class Transition:
    """An engine's change of state; the caller logs one warning for each."""

    engine_id: EngineId
    before: EngineState
    after: EngineState
    why: str


class Engine:
    """One engine.

    Attributes:
        spec: What discovery said last.
        lot: A number by its id alone, the same in every router.
        state: Where it is in its life.
        models: Names that it serves, as far as known.
        max_model_lens: Tokens of their contexts, by name, as far as it tells.
        in_flight: Requests charged to it.
        windows_in_flight: Their windows of 30 s.
        audio_s_in_flight: Their seconds of audio.
        suspects: How many of them are uploads on which an engine has died.
        crowded_at: When it last held several of those, monotonic seconds.
        elsewhere: Windows that other routers have there, as far as scrapes tell.
        part: The part of the engine's work that is this router's, with some slack.
        load: `windows_in_flight + elsewhere`.
        stats: The last scrape; None: none, or it failed.
        last_probe: The last probe; None: none yet.
        last_error: The last thing that went wrong, one sentence; None: nothing did.
        curve: How fast it has shown to be.
        intercept_s: Seconds of a window that do not depend on the others, as is expected of it
            after what it and its peers have shown.
        slope_s: The same of the seconds that each window in service adds to all of them.
        holding: How many windows it holds at a time by its own metrics.
        limit: Windows that it may have in service in all.
        long_limit: Windows in service up to which it takes pieces of long audio.
        cap: This router's own windows below which it takes short work now; 0: none.
        long_cap: The same for pieces of long audio.
        ready_since: When it last became ready; None: never.
        out_since: When it was found, or was last in order (ready, asleep, draining).
        ejected_until: End of its present or last ejection, monotonic seconds.
        ejections: Ejections not yet forgiven.
        is_on_trial: Takes one request at a time until it has answered one well.
        is_warm: Has grown to its full limit since it came back.
        is_withdrawn: Discovery no longer names it.
        record: Its answers since the last good one.
        rests: How often in a row it has asked for a rest.
        rests_until: End of its present or last rest, monotonic seconds.
        unfit: Kinds of upload that it refuses although others serve them.
        withheld: Models that it lists and answers 404 for, each with the end of the time in which
            it gets no work for it, monotonic seconds.
        suspected_at: When a call to it was found overdue, monotonic seconds; None: it has answered,
            or passed a probe, since.
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
        """The engine's id, for short."""
        return self.spec.engine_id

    @property
    def speed(self) -> float:
        """Windows per second that it approaches when full, as is expected of it."""
        return 1.0 / self.slope_s

    @property
    def half_at(self) -> float:
        """Windows in service at which half of that is reached, as is expected of it."""
        return self.intercept_s / self.slope_s

    def __repr__(self) -> str:
        return (
            f"<Engine {self.spec.engine_id} {self.state.value} in_flight={self.in_flight}"
            f" windows={self.windows_in_flight}/{self.limit:.0f}>"
        )


if TYPE_CHECKING:
    from vllm_router.scheduling.pool import Pool
