"""What a model's engines cannot do, learned from their refusals. Pure.

A refusal has many causes, so the first one is not yet knowledge. It becomes knowledge when a second
engine of the model refuses the same. A model with one engine ready has no second one: there a
refusal that names its reason counts at once, and one that does not, such as a 500 to an MP4 that
the router can decode, when it is repeated.

Nor is a refusal knowledge where an engine has done the same of late: then the upload is at fault.
Damaged files and crafted fields are refused as well, and one client must not have every other
client's uploads treated as if engines could do less.

What is learned is forgotten after `BELIEVED_S`, when an engine of the model becomes ready (it may
be a newer one), and when an engine does what it was believed unable to do. Then one or two uploads
find out anew, each at the cost of one call. Bounds: `MAX_ENTRIES` facts, and as many that were
shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vllm_router.scheduling.capabilities import Capabilities

#: How long a fact is believed, in seconds.
BELIEVED_S: Final = 1800.0
#: Engines that must refuse, or refusals of the only one where they do not name the reason.
REFUSALS: Final = 2
#: Ten facts for each of 400 models; the oldest make room.
MAX_ENTRIES: Final = 4096

#: Facts, by name; that a container is unreadable is `container(kind)`.
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
        since: When the first came.
        at: When the last came.
        count: How many.
        engines: Engines that refused, `REFUSALS` at most.
        bound: The narrowest limit that they showed; 0 where the fact is no limit.
        is_known: Whether they are knowledge.
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
    """Remembers refusals by model and reason.

    Attributes:
        has_doubts: Whether anything is remembered: only then is it worth telling of successes.
    """

    __slots__ = ("_evidence", "_shown", "has_doubts")

    def __init__(self) -> None:
        self._evidence: dict[tuple[str, str], _Evidence] = {}
        #: When an engine last did something, in seconds.
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
        """Note that an upload was refused; return whether that is knowledge only now.

        Args:
            model: The engines' model.
            fact: What they turned out unable to do.
            engines: Those that refused.
            now: Monotonic seconds.
            ready: Engines of the model that are ready.
            changed_at: When one of them last became ready.
            is_certain: Whether the refusal names its reason.
            bound: The limit that it showed, in the fact's unit.
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
        """Note that an engine has just done something: refusals of it teach nothing for a while.

        Args:
            model: The engine's model.
            fact: What it turned out able to do; no limit.
            now: Monotonic seconds.
        """
        key = (model, fact)
        if key not in self._shown and len(self._shown) >= MAX_ENTRIES:
            del self._shown[next(iter(self._shown))]
        self._shown[key] = now

    def accepted(self, model: str, fact: str, bound: float = 0.0) -> bool:
        """Note that an engine did what refusals make doubtful; return whether that was news.

        Args:
            model: The engine's model.
            fact: What it turned out able to do.
            bound: How much it took, where the fact is a limit: smaller limits are forgotten.
        """
        found = self._evidence.get((model, fact))
        if found is not None and (bound > found.bound or not found.bound):
            del self._evidence[model, fact]
            self.has_doubts = bool(self._evidence)
            return True
        return False

    def learned(self, model: str, now: float, changed_at: float) -> Capabilities:
        """Return what is known of a model's engines.

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
