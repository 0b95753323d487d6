"""Wiring: what the settings name is what is built. Whether it works is tested end to end."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from vllm_router.app.build import Router, build_router
from vllm_router.app.build_discovery import build_discovery
from vllm_router.discovery.dns import DnsDiscovery
from vllm_router.discovery.file import FileDiscovery
from vllm_router.discovery.kubernetes import KubernetesDiscovery
from vllm_router.discovery.source import Discovery
from vllm_router.discovery.static import StaticDiscovery
from vllm_router.settings import Settings

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


def settings(**values: Any) -> Settings:
    return Settings.model_validate({"static_backends": "http://127.0.0.1:9", **values})


def discovery(**values: Any) -> Discovery:
    return build_discovery(settings(**values), lambda: 0.0, Random(0))


def built(**values: Any) -> Router:
    share = values.pop("share", 1.0)
    router = build_router(settings(**values), share=share)
    for spool in router.spools:
        spool.close()
    return router


def test_each_source_of_engines_is_made(tmp_path: Path) -> None:
    (tmp_path / "engines.yaml").write_text("[]")
    (tmp_path / "kube").write_text(KUBECONFIG)
    assert isinstance(discovery(), StaticDiscovery)
    listing = str(tmp_path / "engines.yaml")
    assert isinstance(discovery(service_discovery="file", discovery_file=listing), FileDiscovery)
    assert isinstance(discovery(service_discovery="dns", dns_name="localhost"), DnsDiscovery)
    kubernetes = discovery(
        service_discovery="k8s",
        k8s_label_selector="app=whisper",
        k8s_kubeconfig=str(tmp_path / "kube"),
    )
    assert isinstance(kubernetes, KubernetesDiscovery)


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"service_discovery": "dns", "dns_name": "a..b"}, "--dns-name"),
        ({"service_discovery": "k8s", "k8s_label_selector": "a", "k8s_port": "?"}, "--k8s-port"),
        (
            {"service_discovery": "k8s", "k8s_label_selector": "a", "k8s_kubeconfig": "/no/such"},
            "--k8s-kubeconfig",
        ),
        ({"static_models": "a,b"}, "--static-models"),
    ],
)
def test_what_cannot_be_carried_out_names_its_flag(values: dict[str, Any], flag: str) -> None:
    with pytest.raises(ValueError, match=flag):
        discovery(**values)


def test_a_ca_file_without_certificates_names_its_flag() -> None:
    with pytest.raises(ValueError, match="--engine-ca-file"):
        build_router(settings(engine_ca_file=__file__))


def test_a_worker_has_its_share_of_every_bound() -> None:
    whole = built(max_queue_audio_s=100, spool_memory_mb=64, max_connections=101)
    half = built(share=0.5, max_queue_audio_s=100, spool_memory_mb=64, max_connections=101)
    assert (whole.listener.max_connections, half.listener.max_connections) == (101, 50)
    assert half.dispatcher.fleet.settings.max_queue_audio_s == 50
    assert half.dispatcher.fleet.settings.limit_share == 0.5
    for mine, all_of_it in zip(half.spools, whole.spools, strict=True):
        assert mine.pool.capacity_blocks * 2 == all_of_it.pool.capacity_blocks


def test_the_memory_that_a_head_comes_in_can_become_an_uploads() -> None:
    router = built()
    upload = router.spools[0].upload()
    assert upload.adopt(router.listener.scratch, 100) is not None
    upload.close()


def test_nothing_is_shared_between_two_routers() -> None:
    one, other = built(), built()
    one.metrics.retries.inc()
    assert one.metrics.registry.get_sample_value("vllm_router_retries_total") == 1
    assert other.metrics.registry.get_sample_value("vllm_router_retries_total") == 0


def test_an_own_source_may_take_the_place_of_the_settings() -> None:
    source = StaticDiscovery(())
    assert build_router(settings(), discovery=source).discovery is source
