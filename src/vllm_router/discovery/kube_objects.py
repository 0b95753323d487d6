"""What a Kubernetes object says about engines: a pod or an EndpointSlice in, candidates out.

Promises: reads the API's JSON as it is, believes none of its types, and keeps a few dozen bytes of
an object that may have 1.5 MB (etcd's limit). A pod is a candidate when it runs, is ready with its
readiness gates, is not being deleted and has an IP. A slice's conditions mean what the API defines,
absent ones included.

Labels and annotations under ``vllm-whisper-router/`` (an annotation beats a label: a label's value
may not hold the ``/`` of ``openai/whisper-small``): ``model``, ``port``, ``weight``, ``gpu``,
``label``. Refuses to know how objects arrive, and what an engine is to the rest of the router.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_router.scheduling.engine_bounds import MAX_MODELS, is_name, read_weight
from vllm_router.scheduling.engine_url import address_url

HINT_PREFIX = "vllm-whisper-router/"
# Set on nodes by NVIDIA's feature discovery, so pods that choose their GPU name it here.
_GPU_NODE_LABEL = "nvidia.com/gpu.product"
_HINT_MAX_CHARS = 1024
# The API allows 253 characters, of a smaller alphabet (RFC 1123); what is none of these is made up.
_ID_MAX_CHARS = 253
# A pod with more engines than this is a mistake, not a machine.
_PORTS_MAX = 64
_PORT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")

Port = int | str
"""A port by number, or by the name it has in the pod or the slice."""


class MalformedObject(ValueError):
    """An object that cannot be read, with the reason as a sentence's end."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place where an engine answers, as one object tells it.

    Attributes:
        key: ``namespace/name/uid``, plus ``:port`` where one pod holds several engines.
        url: ``http://address:port``.
        models: Names of models; None: ask the engine.
        weight: Relative speed, 0.01 to 100.
        gpu: Kind of GPU, for humans.
        label: A free label, for humans.
        is_terminating: No new work; never true for a pod's own candidate, which is left out.
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
    """What one object says: its candidates, and what could not be understood beside them."""

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
        MalformedObject: no name or no uid, or one that the API would not have let in.
    """
    meta = mapping(mapping(item).get("metadata"))
    name, uid = identifier(meta.get("name")), identifier(meta.get("uid"))
    if not name or not uid:
        raise MalformedObject("it has no usable name or no usable uid")
    version = text(meta.get("resourceVersion")) or ""
    return Meta(identifier(meta.get("namespace")) or "", name, uid, version)


def parse_port(written: str) -> Port:
    """Return a port written as a number or a name.

    Raises:
        ValueError: neither 1 to 65535 nor a port's name (RFC 6335, 5.1: 15 characters).
    """
    if written.isascii() and written.isdigit():
        if 0 < int(written) < 65536:
            return int(written)
    elif len(written) <= 15 and _PORT_NAME.fullmatch(written):
        return written
    raise ValueError(f'"{written}" is neither a port from 1 to 65535 nor the name of one')


def read_pod(pod: Mapping[str, Any], port: Port) -> Reading:
    """Return the engines of a pod: none unless it is fit for new work.

    Args:
        pod: The object as the API gave it.
        port: The engine's port, unless the pod names its own (several: ``8000,8001``).

    Raises:
        MalformedObject: fit for work, but its address or port cannot be told.
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
    # The kubelet folds the gates into Ready, but only at its next sync.
    gates = {text(each.get("conditionType")) for each in mappings(spec.get("readinessGates"))}
    return "Ready" in held and gates <= held


def _asked_ports(own: str | None, port: Port) -> list[Port]:
    if own is None:
        return [port]
    try:
        return [parse_port(each.strip()) for each in own.split(",")]
    except ValueError as error:
        raise MalformedObject(f"its {HINT_PREFIX}port is wrong: {error}") from None


def _pod_port(spec: Mapping[str, Any], port: Port, own: str | None) -> int:
    if isinstance(port, int):
        return port
    # Sidecars are init containers that keep running; their ports count too.
    for container in (*mappings(spec.get("containers")), *mappings(spec.get("initContainers"))):
        for each in mappings(container.get("ports")):
            number = whole(each.get("containerPort"))
            if each.get("name") == port and number is not None:
                return number
    asked = f"its {HINT_PREFIX}port asks for" if own is not None else "the router is told to use"
    raise MalformedObject(f'{asked} a port named "{port}", which none of its containers has')


@dataclass(frozen=True, slots=True)
class Hints:
    """What an object's labels and annotations say of its engines."""

    models: tuple[str, ...] | None
    weight: float
    gpu: str | None
    label: str | None

    def at(self, key: str, address: str, port: int, *, is_terminating: bool = False) -> Candidate:
        """Return a candidate with these hints.

        Raises:
            MalformedObject: the address or the port cannot be dialled.
        """
        try:
            url = address_url(address, port)
        except ValueError as error:
            raise MalformedObject(str(error)) from None
        return Candidate(key, url, self.models, self.weight, self.gpu, self.label, is_terminating)


def read_hints(item: Mapping[str, Any], gpu: str | None) -> tuple[Hints, tuple[str, ...]]:
    """Return an object's hints, and what was wrong with them.

    Args:
        item: Any object with metadata.
        gpu: The kind of GPU if no hint names it.
    """
    doubts: list[str] = []
    written = (hint(item, "model") or "").split(",")
    named = dict.fromkeys(name for each in written if (name := each.strip()))
    models = tuple(name for name in named if is_name(name))[:MAX_MODELS]
    if len(models) < len(named):
        doubts.append(f"its {HINT_PREFIX}model has names that cannot be used; they are left out")
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
            doubts.append(f"its {HINT_PREFIX}{name} has characters that cannot be printed, or many")
    kind = texts["gpu"] or (gpu if is_name(gpu) else None)
    return Hints(models or None, weight, kind, texts["label"]), tuple(doubts)


def hint(item: Mapping[str, Any], name: str) -> str | None:
    """Return what the annotation, or else the label, ``vllm-whisper-router/<name>`` says."""
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
    """Return the value if it can be part of an engine's id: short plain text without a slash."""
    if not isinstance(value, str) or not 0 < len(value) <= _ID_MAX_CHARS:
        return None
    return value if value.isascii() and value.isprintable() and "/" not in value else None


def whole(value: object) -> int | None:
    """Return the value if it is a whole number (JSON's true is none)."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
