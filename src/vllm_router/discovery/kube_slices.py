"""EndpointSlices: reading one slice, and merging overlapping objects into engines.

Promises: an endpoint that appears in several slices (the API allows it while endpoints move between
slices, and for both address families) is one candidate. Bounds: a change of one object costs time
for that object's endpoints (at most 1,000 by the API), not for the fleet's.

The rules for absent conditions are those of discovery.k8s.io/v1: absent ``ready`` means ready,
absent ``terminating`` means not terminating; ``serving`` adds nothing to these two.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from vllm_router.discovery.kube_objects import (
    Candidate,
    MalformedObject,
    Port,
    Reading,
    identifier,
    mapping,
    mappings,
    read_hints,
    read_meta,
    text,
    whole,
)

# A few examples suffice for a slice that is invalid throughout.
_DOUBTS_MAX = 10
_SERVICE_NAME_LABEL = "kubernetes.io/service-name"


def read_slice(endpoint_slice: Mapping[str, Any], port: Port) -> Reading:
    """Return a slice's ready and terminating endpoints.

    Terminating ones are kept because another slice may still report the same pod as ready.

    Args:
        endpoint_slice: The object as returned by the API.
        port: Which of the slice's ports, by name or number. If a slice has one port, that port is
            used; if it has none (a headless Service may have none), a number is used as given.

    Raises:
        MalformedObject: None or several of its ports match.
    """
    meta = read_meta(endpoint_slice)
    endpoints = list(mappings(endpoint_slice.get("endpoints")))
    if not endpoints:
        return Reading()
    number = _slice_port(endpoint_slice, port)
    labels = mapping(mapping(endpoint_slice.get("metadata")).get("labels"))
    owner = identifier(labels.get(_SERVICE_NAME_LABEL)) or meta.name
    hints, doubted = read_hints(endpoint_slice, None)
    doubts = list(doubted)
    found: dict[str, Candidate] = {}
    for endpoint in endpoints:
        conditions = mapping(endpoint.get("conditions"))
        is_terminating = conditions.get("terminating") is True
        addresses = endpoint.get("addresses")
        # According to the API, an endpoint's addresses are fungible and the first suffices.
        address = text(addresses[0]) if isinstance(addresses, list) and addresses else None
        if not address or (conditions.get("ready") is False and not is_terminating):
            continue
        target = mapping(endpoint.get("targetRef"))
        key = _key(target, meta.namespace) or f"{meta.namespace}/{owner}/{address}:{number}"
        try:
            found[key] = hints.at(key, address, number, is_terminating=is_terminating)
        except MalformedObject as error:
            # Skip that endpoint only, not its hundred neighbors.
            if len(doubts) < _DOUBTS_MAX:
                doubts.append(str(error))
    return Reading(tuple(found.values()), tuple(doubts))


def _key(target: Mapping[str, Any], namespace: str) -> str | None:
    name, uid = identifier(target.get("name")), identifier(target.get("uid"))
    if target.get("kind") != "Pod" or not name or not uid:
        return None
    return f"{identifier(target.get('namespace')) or namespace}/{name}/{uid}"


def _slice_port(endpoint_slice: Mapping[str, Any], port: Port) -> int:
    ports: dict[int, object] = {
        number: each.get("name")
        for each in mappings(endpoint_slice.get("ports"))
        if (number := whole(each.get("port"))) is not None and each.get("protocol") in (None, "TCP")
    }
    if len(ports) == 1:
        return next(iter(ports))
    fitting = [number for number, name in ports.items() if port in (number, name)]
    if len(fitting) == 1:
        return fitting[0]
    if not ports and isinstance(port, int):
        return port
    names = ", ".join(f"{name or 'unnamed'} ({number})" for number, name in ports.items())
    raise MalformedObject(f'it has no port "{port}"; it has {names[:200] or "none"}')


class EndpointBook:
    """The engines that result from all objects seen so far.

    An engine that any object reports as terminating is gone: a pod never returns from that state,
    while its "ready" elsewhere may be outdated. Of two addresses, the IPv4 one is used.
    """

    def __init__(self) -> None:
        self._objects: dict[str, tuple[Candidate, ...]] = {}
        self._by_key: dict[str, dict[str, Candidate]] = {}

    def __repr__(self) -> str:
        return f"<EndpointBook objects={len(self._objects)} engines={len(self._by_key)}>"

    def put(self, name: str, candidates: Iterable[Candidate]) -> tuple[str, ...]:
        """Replace the candidates of the object with that name (none if it is gone).

        Returns:
            Keys of engines that may have changed, each once; removed ones first.
        """
        new = tuple(candidates)
        old = self._objects.pop(name, ())
        for candidate in old:
            says = self._by_key[candidate.key]
            del says[name]
            if not says:
                del self._by_key[candidate.key]
        if new:
            self._objects[name] = new
        for candidate in new:
            self._by_key.setdefault(candidate.key, {})[name] = candidate
        return tuple(dict.fromkeys(candidate.key for candidate in (*old, *new)))

    def engine(self, key: str) -> Candidate | None:
        """Return the engine with that key if it can take new work."""
        says = self._by_key.get(key)
        if says is None or any(candidate.is_terminating for candidate in says.values()):
            return None
        return min(says.values(), key=lambda candidate: ("[" in candidate.url, candidate.url))

    def engines(self) -> tuple[Candidate, ...]:
        """Return every engine that can take new work."""
        return tuple(engine for key in self._by_key if (engine := self.engine(key)) is not None)
