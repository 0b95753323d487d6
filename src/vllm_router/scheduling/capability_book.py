"""Limitations of a model's engines, learned from their refusals. Pure.

A refusal has many causes, so a single one proves nothing. It counts as knowledge once a second
engine of the model refuses the same. A model with only one ready engine has no second one. There,
a refusal that names its reason counts at once. A refusal without a reason, such as a 500 for an
MP4 that the router can decode, counts when it is repeated.

A refusal is ignored if an engine has recently done the same thing: then the upload is at fault.
Damaged files and crafted fields are refused too, and one client must not degrade the treatment of
all other clients' uploads.

Knowledge expires after `BELIEVED_S`, when an engine of the model becomes ready (it may be a newer
version), and when an engine does what it was believed unable to do. One or two uploads then
establish it again, at the cost of one call each. Bounds: `MAX_ENTRIES` limitations and as many
demonstrated capabilities.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vllm_router.scheduling.capabilities import Capabilities

#: How long a limitation is believed, in seconds.
BELIEVED_S: Final = 1800.0
#: Engines that must refuse, or refusals without a reason from the only engine.
REFUSALS: Final = 2
#: Ten facts for each of 400 models; the oldest are evicted.
MAX_ENTRIES: Final = 4096

#: Names of facts; `container(kind)` is the fact that a container is unreadable.
VERBOSE_JSON: Final = "verbose_json"
LANGUAGE: Final = "language"
MAX_AUDIO_S: Final = "max_audio_s"
MAX_FILE_BYTES: Final = "max_file_bytes"
_CONTAINER: Final = "container:"


def container(kind: str) -> str:
    """Return the name of the fact that engines cannot read a container."""
    return _CONTAINER + kind


class _Evidence:
    """Refusals for one reason.

    Attributes:
        since: Time of the first.
        at: Time of the last.
        count: Number of refusals.
        engines: Engines that refused, at most `REFUSALS`.
        bound: Narrowest limit observed; 0 if the fact is not a limit.
        is_known: Whether they count as knowledge.
    """

    __slots__ = ("at", "bound", "count", "engines", "is_known", "since")

    def __init__(self, now: float, bound: float) -> None:
        self.since = now
        self.at = now
        self.count = 0
        self.engines: list[str] = []
        self.bound = bound
        self.is_known = False


class CapabilityBook:
    """Refusals by model and reason.

    Attributes:
        has_doubts: Whether any refusal is stored; otherwise successes need not be reported.
    """

    __slots__ = ("_evidence", "_shown", "has_doubts")

    def __init__(self) -> None:
        self._evidence: dict[tuple[str, str], _Evidence] = {}
        #: When an engine last demonstrated a capability, in seconds.
        self._shown: dict[tuple[str, str], float] = {}
        self.has_doubts = False

    def refused(
        self,
        model: str,
        fact: str,
        engines: Iterable[str],
        now: float,
        *,
        ready: int,
        changed_at: float,
        is_certain: bool,
        bound: float = 0.0,
    ) -> bool:
        """Record a refused upload; return whether this establishes new knowledge.

        Args:
            model: The engines' model.
            fact: What the engines failed to do.
            engines: The engines that refused.
            now: Monotonic seconds.
            ready: Number of ready engines of the model.
            changed_at: When one of them last became ready.
            is_certain: Whether the refusal names its reason.
            bound: The limit observed, in the fact's unit.
        """
        key = (model, fact)
        shown_at = self._shown.get(key)
        if shown_at is not None and changed_at <= shown_at >= now - BELIEVED_S:
            return False
        found = self._evidence.get(key)
        if found is None or self._is_stale(found, now, changed_at):
            self._evidence.pop(key, None)
            if len(self._evidence) >= MAX_ENTRIES:
                del self._evidence[next(iter(self._evidence))]
            found = self._evidence[key] = _Evidence(now, bound)
            self.has_doubts = True
        was_known = found.is_known and found.bound <= bound
        found.at = now
        found.count += 1
        found.bound = min(found.bound, bound)
        for engine in engines:
            if engine not in found.engines and len(found.engines) < REFUSALS:
                found.engines.append(engine)
        if len(found.engines) >= REFUSALS or (
            ready <= 1 and (is_certain or found.count >= REFUSALS)
        ):
            found.is_known = True
        return found.is_known and not was_known

    def shown(self, model: str, fact: str, now: float) -> None:
        """Record a demonstrated capability; contrary refusals are ignored for a while.

        Args:
            model: The engine's model.
            fact: What the engine did; never a limit.
            now: Monotonic seconds.
        """
        key = (model, fact)
        if key not in self._shown and len(self._shown) >= MAX_ENTRIES:
            del self._shown[next(iter(self._shown))]
        self._shown[key] = now

    def accepted(self, model: str, fact: str, bound: float = 0.0) -> bool:
        """Record that an engine did what refusals put in doubt; return whether that was news.

        Args:
            model: The engine's model.
            fact: What the engine did.
            bound: How much it accepted, if the fact is a limit: smaller limits are forgotten.
        """
        found = self._evidence.get((model, fact))
        if found is not None and (bound > found.bound or not found.bound):
            del self._evidence[model, fact]
            self.has_doubts = bool(self._evidence)
            return True
        return False

    def learned(self, model: str, now: float, changed_at: float) -> Capabilities:
        """Return the learned limitations of a model's engines.

        Args:
            model: The model.
            now: Monotonic seconds.
            changed_at: When an engine of the model last became ready.
        """
        unreadable = []
        verbose_json: bool | None = None
        language: bool | None = None
        max_audio_s: float | None = None
        max_file_bytes: int | None = None
        for key in [key for key in self._evidence if key[0] == model]:
            found = self._evidence[key]
            if self._is_stale(found, now, changed_at):
                del self._evidence[key]
                continue
            if not found.is_known:
                continue
            fact = key[1]
            if fact == VERBOSE_JSON:
                verbose_json = False
            elif fact == LANGUAGE:
                language = False
            elif fact == MAX_AUDIO_S:
                max_audio_s = found.bound
            elif fact == MAX_FILE_BYTES:
                max_file_bytes = int(found.bound)
            elif fact.startswith(_CONTAINER):
                unreadable.append(fact[len(_CONTAINER) :])
        self.has_doubts = bool(self._evidence)
        return Capabilities(
            verbose_json, language, max_audio_s, max_file_bytes, None, frozenset(unreadable)
        )

    def _is_stale(self, found: _Evidence, now: float, changed_at: float) -> bool:
        return now - found.at > BELIEVED_S or changed_at > found.since

    def __len__(self) -> int:
        return len(self._evidence)
