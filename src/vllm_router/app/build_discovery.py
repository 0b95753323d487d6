"""Build the discovery source that the settings select."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from vllm_router.discovery.dns import DnsDiscovery
from vllm_router.discovery.file import FileDiscovery
from vllm_router.discovery.kube_access import find_access
from vllm_router.discovery.kube_objects import parse_port
from vllm_router.discovery.kubernetes import KubernetesDiscovery
from vllm_router.discovery.source import Discovery
from vllm_router.discovery.static import StaticDiscovery, static_specs
from vllm_router.settings import Settings


@contextlib.contextmanager
def blaming(flag: str) -> Iterator[None]:
    """Prefix an error message with the flag at fault."""
    try:
        yield
    except (ValueError, OSError) as e:
        raise ValueError(f"{flag}: {e}") from e


def build_discovery(settings: Settings, now: Callable[[], float], rng: Random) -> Discovery:
    """Return the discovery source that the settings select.

    Raises:
        ValueError: It cannot be used; one sentence says why.
    """
    match settings.service_discovery:
        case "static":
            specs = static_specs(
                settings.static_backends,
                settings.static_models,
                settings.static_model_types,
                settings.static_model_labels,
            )
            return StaticDiscovery(specs)
        case "file":
            assert settings.discovery_file is not None
            return FileDiscovery(settings.discovery_file, clock=now)
        case "dns":
            with blaming("--dns-name"):
                return DnsDiscovery(
                    settings.dns_name,
                    port=settings.dns_port,
                    refresh_s=settings.dns_refresh_s,
                    clock=now,
                )
        case "k8s":
            with blaming("--k8s-port"):
                port = parse_port(settings.k8s_port)
            with blaming("--k8s-kubeconfig"):
                access = find_access(
                    settings.k8s_kubeconfig,
                    settings.k8s_context,
                    environ=os.environ,
                    home=Path.home(),
                )
            return KubernetesDiscovery(
                access,
                namespace=settings.k8s_namespace,
                label_selector=settings.k8s_label_selector,
                port=port,
                kind=settings.k8s_service_discovery_type,
                watch_timeout_s=settings.k8s_watcher_timeout_seconds,
                clock=now,
                rng=rng,
            )
