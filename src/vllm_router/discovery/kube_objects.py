"""Reads candidates for engines from a Kubernetes object, a pod or an EndpointSlice.

Promises: reads the API's raw JSON without trusting its types, and keeps a few dozen bytes of an
object that may have 1.5 MB (etcd's limit). A pod is a candidate if it runs, is ready including its
readiness gates, is not being deleted and has an IP. A slice's conditions have the meaning defined
by the API, also if they are absent.

Labels and annotations under ``vllm-whisper-router/`` (an annotation takes precedence, because a
label's value may not contain the ``/`` of ``openai/whisper-small``): ``model``, ``port``,
``weight``, ``gpu``, ``label``. Refuses to know: how objects arrive, and what the rest of the router
does with an engine.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_router.scheduling.engine_bounds import MAX_MODELS, is_name, read_weight
from vllm_router.scheduling.engine_url import address_url

HINT_PREFIX = "vllm-whisper-router/"
# Set on nodes by NVIDIA's feature discovery; pods select their GPU with it.
_GPU_NODE_LABEL = "nvidia.com/gpu.product"
_HINT_MAX_CHARS = 1024
# The API allows 253 characters of a smaller alphabet (RFC 1123); anything else is forged.
_ID_MAX_CHARS = 253
# A pod with more engines than this is a mistake.
_PORTS_MAX = 64
_PORT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")

Port = int | str
"""A port by number, or by the name it has in the pod or the slice."""


class MalformedObject(ValueError):
    """An object that cannot be read; the reason completes a sentence."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The address of an engine, as one object states it.

    Attributes:
        key: ``namespace/name/uid``, plus ``:port`` if one pod holds several engines.
        url: ``http://address:port``.
        models: Names of models; None if the engine must be asked.
        weight: Relative speed, 0.01 to 100.
        gpu: GPU type, for display and for estimates from peers of the same type.
        label: A free label for display.
        is_terminating: Whether it gets no new work; a terminating pod's own candidate is omitted.
    """

    key: str
    url: str
    models: tuple[str, ...] | None = None
    weight: float = 1.0
    gpu: str | None = None
    label: str | None = None
    is_terminating: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """The content of one object: its candidates, and any problems found beside them."""

    candidates: tuple[Candidate, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Meta:
    """An object's identity and version."""

    namespace: str
    name: str
    uid: str
    version: str


def read_meta(item: object) -> Meta:
    """Return an object's identity.

    Raises:
        MalformedObject: The name or UID is missing, or the API would not have accepted it.
    """
    meta = mapping(mapping(item).get("metadata"))
    name, uid = identifier(meta.get("name")), identifier(meta.get("uid"))
    if not name or not uid:
        raise MalformedObject("it has no usable name or UID")
    version = text(meta.get("resourceVersion")) or ""
    return Meta(identifier(meta.get("namespace")) or "", name, uid, version)


def parse_port(written: str) -> Port:
    """Return a port written as a number or a name.

    Raises:
        ValueError: Neither 1 to 65535 nor a port's name (RFC 6335, 5.1: 15 characters).
    """
    if written.isascii() and written.isdigit():
        if 0 < int(written) < 65536:
            return int(written)
    elif len(written) <= 15 and _PORT_NAME.fullmatch(written):
        return written
    raise ValueError(f'"{written}" is neither a port from 1 to 65535 nor a port name')


def read_pod(pod: Mapping[str, Any], port: Port) -> Reading:
    """Return the engines of a pod, none unless it can take new work.

    Args:
        pod: The object as returned by the API.
        port: The engine's port, unless the pod specifies its own (several: ``8000,8001``).

    Raises:
        MalformedObject: The pod can take work, but its address or port cannot be determined.
    """
    meta, spec, status = read_meta(pod), mapping(pod.get("spec")), mapping(pod.get("status"))
    address = text(status.get("podIP"))
    if not address or not _is_fit(pod, spec, status):
        return Reading()
    own = hint(pod, "port")
    asked = [_pod_port(spec, each, own) for each in _asked_ports(own, port)]
    numbers = list(dict.fromkeys(asked))
    if len(numbers) > _PORTS_MAX:
        raise MalformedObject(f"its {HINT_PREFIX}port names more than {_PORTS_MAX} ports")
    hints, doubts = read_hints(pod, text(mapping(spec.get("nodeSelector")).get(_GPU_NODE_LABEL)))
    key = f"{meta.namespace}/{meta.name}/{meta.uid}"
    return Reading(
        tuple(
            hints.at(key if len(numbers) == 1 else f"{key}:{number}", address, number)
            for number in numbers
        ),
        doubts,
    )


def _is_fit(pod: Mapping[str, Any], spec: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    if mapping(pod.get("metadata")).get("deletionTimestamp") or status.get("phase") != "Running":
        return False
    held = {
        text(each.get("type"))
        for each in mappings(status.get("conditions"))
        if each.get("status") == "True"
    }
    # The kubelet includes the gates in Ready, but only at its next sync.
    gates = {text(each.get("conditionType")) for each in mappings(spec.get("readinessGates"))}
    return "Ready" in held and gates <= held


def _asked_ports(own: str | None, port: Port) -> list[Port]:
    if own is None:
        return [port]
    try:
        return [parse_port(each.strip()) for each in own.split(",")]
    except ValueError as error:
        raise MalformedObject(f"its {HINT_PREFIX}port is invalid: {error}") from None


def _pod_port(spec: Mapping[str, Any], port: Port, own: str | None) -> int:
    if isinstance(port, int):
        return port
    # Sidecars are init containers that keep running; their ports count too.
    for container in (*mappings(spec.get("containers")), *mappings(spec.get("initContainers"))):
        for each in mappings(container.get("ports")):
            number = whole(each.get("containerPort"))
            if each.get("name") == port and number is not None:
                return number
    asked = f"its {HINT_PREFIX}port asks for" if own is not None else "the router is configured for"
    raise MalformedObject(f'{asked} a port named "{port}", which none of its containers has')


@dataclass(frozen=True, slots=True)
class Hints:
    """Hints about an object's engines from its labels and annotations."""

    models: tuple[str, ...] | None
    weight: float
    gpu: str | None
    label: str | None

    def at(self, key: str, address: str, port: int, *, is_terminating: bool = False) -> Candidate:
        """Return a candidate with these hints.

        Raises:
            MalformedObject: The address or port cannot be dialed.
        """
        try:
            url = address_url(address, port)
        except ValueError as error:
            raise MalformedObject(str(error)) from None
        return Candidate(key, url, self.models, self.weight, self.gpu, self.label, is_terminating)


def read_hints(item: Mapping[str, Any], gpu: str | None) -> tuple[Hints, tuple[str, ...]]:
    """Return an object's hints, and any problems with them.

    Args:
        item: Any object with metadata.
        gpu: The GPU type if no hint names it.
    """
    doubts: list[str] = []
    written = (hint(item, "model") or "").split(",")
    named = dict.fromkeys(name for each in written if (name := each.strip()))
    models = tuple(name for name in named if is_name(name))[:MAX_MODELS]
    if len(models) < len(named):
        doubts.append(f"its {HINT_PREFIX}model has invalid names, which are ignored")
    weight = 1.0
    if (said := hint(item, "weight")) is not None:
        try:
            weight = read_weight(said)
        except ValueError as error:
            doubts.append(f"its {HINT_PREFIX}weight {said[:50]!a} {error}; 1 is used")
    texts: dict[str, str | None] = {}
    for name in ("gpu", "label"):
        texts[name] = hint(item, name)
        if texts[name] is not None and not is_name(texts[name]):
            texts[name] = None
            doubts.append(f"its {HINT_PREFIX}{name} is too long or has unprintable characters")
    kind = texts["gpu"] or (gpu if is_name(gpu) else None)
    return Hints(models or None, weight, kind, texts["label"]), tuple(doubts)


def hint(item: Mapping[str, Any], name: str) -> str | None:
    """Return the annotation, or else the label, ``vllm-whisper-router/<name>``."""
    meta = mapping(item.get("metadata"))
    for source in ("annotations", "labels"):
        written = text(mapping(meta.get(source)).get(HINT_PREFIX + name))
        if written and written.strip():
            return written.strip()[:_HINT_MAX_CHARS]
    return None


def mapping(value: object) -> Mapping[str, Any]:
    """Return the value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> Iterator[Mapping[str, Any]]:
    """Yield the JSON objects of a JSON array, if it is one."""
    if isinstance(value, list):
        yield from (each for each in value if isinstance(each, dict))


def text(value: object) -> str | None:
    """Return the value if it is a string."""
    return value if isinstance(value, str) else None


def identifier(value: object) -> str | None:
    """Return the value if it may be part of an engine's ID: short plain text without a slash."""
    if not isinstance(value, str) or not 0 < len(value) <= _ID_MAX_CHARS:
        return None
    return value if value.isascii() and value.isprintable() and "/" not in value else None


def whole(value: object) -> int | None:
    """Return the value if it is an integer (JSON's true is not)."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
