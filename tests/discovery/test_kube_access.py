from pathlib import Path

import pytest

from vllm_router.discovery.kube_access import find_access


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / ".kube").mkdir(parents=True)
    return tmp_path / "home"


def test_the_named_kubeconfig_comes_first(home: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    named.touch()
    environ = {"KUBECONFIG": "/elsewhere", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    access = find_access(str(named), "prod", environ=environ, home=home)
    assert (access.kubeconfig, access.context) == (str(named), "prod")
    assert str(access) == f"kubeconfig {named}"


def test_then_the_environment_then_the_cluster_then_home(home: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.touch()
    (home / ".kube" / "config").touch()
    (tmp_path / "token").touch()
    cluster = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    several = {"KUBECONFIG": f"{first}:{second}", **cluster}
    access = find_access(None, environ=several, home=home)
    assert access.kubeconfig == f"{first}:{second}"
    access = find_access(None, environ=cluster, home=home, service_account=tmp_path)
    assert access.kubeconfig is None
    assert str(access) == "in cluster"
    access = find_access(None, environ={}, home=home)
    assert access.kubeconfig == str(home / ".kube" / "config")


def test_what_is_missing_is_said(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the kubeconfig /nowhere is not a file"):
        find_access("/nowhere", environ={}, home=home)
    with pytest.raises(ValueError, match="KUBECONFIG /a:/b is not a file"):
        find_access(None, environ={"KUBECONFIG": "/a:/b"}, home=home)
    cluster = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    with pytest.raises(ValueError, match="no service account token"):
        find_access(None, environ=cluster, home=home, service_account=tmp_path)
    with pytest.raises(ValueError, match="not in a cluster"):
        find_access(None, environ={}, home=home)
