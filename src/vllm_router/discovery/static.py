"""Engines from flags: fixed at startup.

Promises: any error in the flags is reported in one sentence that names the flag, before anything
starts.
"""

from collections.abc import AsyncGenerator, Sequence

from vllm_router.discovery.source import DiscoveryStatus
from vllm_router.scheduling.changes import Change, Listing
from vllm_router.scheduling.engine import EngineId, EngineSpec
from vllm_router.scheduling.engine_url import engine_url

# Model types that this router can serve; the flag comes from routers that serve more.
MODEL_TYPES = ("transcription",)


def static_specs(
    urls: Sequence[str],
    models: Sequence[str] = (),
    model_types: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> tuple[EngineSpec, ...]:
    """Return the engines that the ``--static-*`` flags list.

    Args:
        urls: ``--static-backends``, one or more.
        models: ``--static-models``, one for each URL; if empty, each engine is asked.
        model_types: ``--static-model-types``, one for each URL, or none.
        labels: ``--static-model-labels``, one for each URL, or none.

    Raises:
        ValueError: One sentence that names the flag.
    """
    if not urls:
        raise ValueError("--static-backends names no engine")
    for flag, values in (
        ("--static-models", models),
        ("--static-model-types", model_types),
        ("--static-model-labels", labels),
    ):
        if values and len(values) != len(urls):
            raise ValueError(
                f"{flag} has {_counted(len(values), 'value')} but --static-backends names "
                f"{_counted(len(urls), 'engine')}; give one for each"
            )
        for value in values:
            if not value.strip():
                raise ValueError(f"{flag} has an empty value")
    for kind in model_types:
        if kind.strip() not in MODEL_TYPES:
            raise ValueError(
                f'--static-model-types: "{kind.strip()}" is not supported; '
                f"use {' or '.join(MODEL_TYPES)}"
            )
    specs: dict[str, EngineSpec] = {}
    for at, written in enumerate(urls):
        try:
            url = engine_url(written)
        except ValueError as error:
            raise ValueError(f"--static-backends: {error}") from None
        if url in specs:
            raise ValueError(f"--static-backends names {url} twice")
        specs[url] = EngineSpec(
            engine_id=EngineId(url),
            url=url,
            models=(models[at].strip(),) if models else None,
            model_type=model_types[at].strip() if model_types else MODEL_TYPES[0],
            label=labels[at].strip() if labels else None,
        )
    return tuple(specs.values())


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class StaticDiscovery:
    """The engines from the flags, as a single Listing."""

    def __init__(self, specs: Sequence[EngineSpec]) -> None:
        self._specs = tuple(specs)
        self.status = DiscoveryStatus("flags", 0.0, is_fixed=True)

    def __repr__(self) -> str:
        return f"<StaticDiscovery engines={len(self._specs)}>"

    async def changes(self) -> AsyncGenerator[Change]:
        """Yield the only Listing, and end."""
        self.status.recovered()
        yield Listing(self._specs)
