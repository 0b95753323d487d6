"""May this work join the queue? Past its bounds a client is told at once when to come back."""

import math
from typing import Final

from vllm_router.scheduling.drain_rate import DRAIN_MEMORY_S, expected_wait_s
from vllm_router.scheduling.fleet_settings import FleetSettings
from vllm_router.scheduling.pool import Pool
from vllm_router.scheduling.work import QueueFull, Ticket, Urgency

# Until the queue has been busy for so long, what was measured says how much was asked for, not how
# much the fleet can do.
_MEASURED_AFTER_S: Final = 5.0
# Nor does it while fewer windows than this have been done meanwhile.
_MEASURED_WINDOWS: Final = 20.0
# Of what it is expected to be, the wait may well be only so much: nobody is refused who would have
# been served in time.
_AT_LEAST: Final = 0.7
# A client is never told to stay away longer: by then the fleet is another.
_LONGEST_RETRY_S: Final = 1800.0


def drain_rate(pool: Pool, now: float) -> float:
    """Return windows per second at which a pool works its queue off."""
    measured = pool.drain.per_s(now)
    if pool.busy_since is None:
        return max(measured, pool.capacity_per_s(now))
    busy_s = now - pool.busy_since
    if busy_s >= _MEASURED_AFTER_S and measured * min(busy_s, DRAIN_MEMORY_S) >= _MEASURED_WINDOWS:
        return measured
    # Answers come in bursts, or seldom: between two of them it looks as if nothing got done.
    return max(measured, pool.capacity_per_s(now))


def admit(pool: Pool, ticket: Ticket, settings: FleetSettings, now: float) -> None:
    """Let a ticket pass, or say when to come back.

    Raises:
        QueueFull: more audio waits than allowed, or the wait is expected to be longer than allowed.
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
    # Short work waits for short work only; long work waits for all.
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
