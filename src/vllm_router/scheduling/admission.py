"""Admission to the queue. Beyond its bounds, work is refused at once with a time to retry."""

import math
from typing import Final

from vllm_router.scheduling.drain_rate import DRAIN_MEMORY_S, expected_wait_s
from vllm_router.scheduling.fleet_settings import FleetSettings
from vllm_router.scheduling.pool import Pool
from vllm_router.scheduling.work import QueueFull, Ticket, Urgency

# Until the queue has been busy for this long, the measured rate reflects demand, not the fleet's
# capacity.
_MEASURED_AFTER_S: Final = 5.0
# The same holds until this many windows have finished in that time.
_MEASURED_WINDOWS: Final = 20.0
# The real wait may be as short as this share of the estimate. Work that might be served in time is
# not refused.
_AT_LEAST: Final = 0.7
# The longest Retry-After: by then the fleet has changed.
_LONGEST_RETRY_S: Final = 1800.0


def drain_rate(pool: Pool, now: float) -> float:
    """Return the rate at which a pool drains its queue, in windows per second."""
    measured = pool.drain.per_s(now)
    if pool.busy_since is None:
        return max(measured, pool.capacity_per_s(now))
    busy_s = now - pool.busy_since
    if busy_s >= _MEASURED_AFTER_S and measured * min(busy_s, DRAIN_MEMORY_S) >= _MEASURED_WINDOWS:
        return measured
    # Responses come in bursts or rarely. Between two of them, throughput appears to be zero.
    return max(measured, pool.capacity_per_s(now))


def admit(pool: Pool, ticket: Ticket, settings: FleetSettings, now: float) -> None:
    """Admit a ticket, or refuse it with the time after which to retry.

    Raises:
        QueueFull: The limit on queued audio or on the expected wait is exceeded.
    """
    queue = pool.queue
    if not len(queue):
        return
    per_s = drain_rate(pool, now)
    most_audio_s, most_wait_s = settings.max_queue_audio_s, settings.max_queue_wait_s
    if most_audio_s is not None and queue.audio_s + ticket.audio_s > most_audio_s:
        excess_s = queue.audio_s + ticket.audio_s - most_audio_s
        retry_s = expected_wait_s(excess_s * queue.windows / max(queue.audio_s, 1.0), per_s)
        raise QueueFull(
            _bounded(retry_s), f"{queue.audio_s:.0f} s of audio are waiting for {ticket.model}."
        )
    if most_wait_s is None:
        return
    # Short work waits only for short work; long work waits for everything.
    ahead = queue.short.windows if ticket.urgency is Urgency.SHORT else queue.windows
    wait_s = expected_wait_s(ahead, per_s)
    if _AT_LEAST * wait_s > most_wait_s:
        raise QueueFull(
            _bounded(wait_s - most_wait_s),
            f"The wait for {ticket.model} is expected to be longer than {most_wait_s:g} s.",
        )


def _bounded(seconds: float) -> float:
    if not math.isfinite(seconds):
        return _LONGEST_RETRY_S
    return min(max(1.0, seconds), _LONGEST_RETRY_S)
