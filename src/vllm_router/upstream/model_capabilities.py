"""What a model's engines can do, from flags, the engines file and their refusals.

Statements by flag take precedence over those in the engines file, and both over learned ones. If
the engines of a model differ, only what all of them can do counts, because an upload may go to any
of them. Every worker process learns separately.

Bounds: one small value per model that uploads name, recalculated at most every `FRESH_S`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from vllm_router.scheduling.capabilities import UNKNOWN, Capabilities, narrowest
from vllm_router.scheduling.capability_book import (
    LANGUAGE,
    MAX_AUDIO_S,
    MAX_FILE_BYTES,
    VERBOSE_JSON,
    CapabilityBook,
    container,
)
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.work import Ticket

log = logging.getLogger(__name__)

#: Lifetime of a cached result, in seconds: an edit of the engines file or a returning engine takes
#: effect soon, and uploads hardly ever pay for the calculation.
FRESH_S: Final = 1.0
#: Maximum number of cached models.
MAX_MODELS: Final = 1000


class ModelCapabilities:
    """Capabilities of models' engines.

    Args:
        fleet: The engines.
        stated: Capabilities stated by flag, by model.
        now: Monotonic seconds.
    """

    def __init__(
        self, fleet: Fleet, stated: Mapping[str, Capabilities], now: Callable[[], float]
    ) -> None:
        self._fleet = fleet
        self._stated = stated
        self._now = now
        self._book = CapabilityBook()
        self._known: dict[str, tuple[float, Capabilities]] = {}

    def is_news(self, kind: str, *, has_language: bool, is_verbose: bool) -> bool:
        """Return whether an upload that an engine accepted is worth recording.

        It is if it may refute a refusal, or if not every engine could accept it: a WAV without any
        field shows nothing.
        """
        return has_language or is_verbose or kind != "wav" or self._book.has_doubts

    def of(self, model: str) -> Capabilities:
        """Return the known capabilities of a model's engines."""
        now = self._now()
        known = self._known.get(model)
        if known is not None and now < known[0]:
            return known[1]
        found = self.stated(model).beats(self._learned(model, now))
        if found == UNKNOWN:
            # The shared object, which is fast to compare.
            found = UNKNOWN
        if len(self._known) >= MAX_MODELS:
            self._known.clear()
        self._known[model] = (now + FRESH_S, found)
        return found

    def stated(self, model: str) -> Capabilities:
        """Return the stated capabilities of a model's engines."""
        specs = [engine.spec.capabilities for engine in self._fleet.members(model)]
        of_engines = narrowest(each for each in specs if each is not None)
        by_flag = self._stated.get(model)
        return of_engines if by_flag is None else by_flag.beats(of_engines)

    def view(self, model: str) -> dict[str, object]:
        """Return the known capabilities as JSON; empty if there are none."""
        view = self.of(model).view()
        stated = self.stated(model).view()
        if stated:
            view["stated"] = sorted(stated)
        members = self._fleet.members(model)
        lengths = [e.max_model_lens[model] for e in members if model in e.max_model_lens]
        if lengths:
            # Reported by the engines; no decision depends on it.
            view["max_model_len"] = min(lengths)
        return view

    def unreadable(self, model: str) -> tuple[str, ...]:
        """Return the containers that a model's engines have been found unable to read."""
        return tuple(sorted(self.of(model).unreadable))

    def refused_format(self, ticket: Ticket, engine_id: str) -> None:
        """Record that an engine does not support `verbose_json`."""
        self._refused(ticket, VERBOSE_JSON, [engine_id])

    def refused_language(self, ticket: Ticket, engine_id: str) -> None:
        """Record that an engine does not accept the field `language`."""
        self._refused(ticket, LANGUAGE, [engine_id])

    def refused_length(self, ticket: Ticket, engine_id: str, limit_s: float) -> None:
        """Record that audio longer than a limit in seconds is refused."""
        self._refused(ticket, MAX_AUDIO_S, [engine_id], bound=limit_s)

    def refused_size(self, ticket: Ticket, engine_id: str, limit_bytes: float) -> None:
        """Record that a file larger than a limit in bytes is refused."""
        self._refused(ticket, MAX_FILE_BYTES, [engine_id], bound=limit_bytes)

    def refused_container(self, ticket: Ticket, engine_id: str, kind: str, status: int) -> None:
        """Record that an engine refused a file that turned out to be valid.

        Args:
            ticket: The work.
            engine_id: The engine that refused.
            kind: The file's container, such as "mp4".
            status: The status of the refusal.
        """
        if kind == "wav":
            return
        engines = [engine_id]
        if status >= 500:
            # This status is final only after another engine has failed on the upload too, if any
            # could be asked.
            engines += sorted(ticket.excluded)
        self._refused(ticket, container(kind), engines, is_certain=False)

    def accepted(
        self,
        model: str,
        kind: str,
        audio_s: float,
        size_bytes: int,
        *,
        has_language: bool,
        is_verbose: bool,
    ) -> None:
        """Record an accepted upload: contrary knowledge is dropped and not learned again soon.

        Args:
            model: The engine's model.
            kind: The file's container.
            audio_s: Length in seconds; 0 if it is only estimated.
            size_bytes: Size in bytes.
            has_language: Whether the field `language` was sent.
            is_verbose: Whether `verbose_json` was requested.
        """
        book, now = self._book, self._now()
        if kind != "wav":
            book.shown(model, container(kind), now)
        if has_language:
            book.shown(model, LANGUAGE, now)
        if is_verbose:
            book.shown(model, VERBOSE_JSON, now)
        if not book.has_doubts:
            return
        is_news = book.accepted(model, container(kind))
        is_news |= book.accepted(model, MAX_AUDIO_S, audio_s)
        is_news |= book.accepted(model, MAX_FILE_BYTES, size_bytes)
        if has_language:
            is_news |= book.accepted(model, LANGUAGE)
        if is_verbose:
            is_news |= book.accepted(model, VERBOSE_JSON)
        if is_news:
            self._known.pop(model, None)

    def _refused(
        self,
        ticket: Ticket,
        fact: str,
        engines: list[str],
        *,
        is_certain: bool = True,
        bound: float = 0.0,
    ) -> None:
        model, now = ticket.model, self._now()
        ready, changed_at = self._fleet.readiness(model)
        is_news = self._book.refused(
            model,
            fact,
            engines,
            now,
            ready=ready,
            changed_at=changed_at,
            is_certain=is_certain,
            bound=bound,
        )
        self._known.pop(model, None)
        if is_news:
            log.info("engines of %s have refused this and probably lack it: %s", model, fact)

    def _learned(self, model: str, now: float) -> Capabilities:
        if not self._book.has_doubts:
            return UNKNOWN
        return self._book.learned(model, now, self._fleet.readiness(model)[1])
