"""Locates the Kubernetes API and the credentials: a kubeconfig, or in-cluster.

Promises: a missing kubeconfig or service account is reported at startup, in one sentence, before
anything is imported or any connection is opened. Only paths and the environment are read here. The
``kubernetes`` package reads the files each time a client is opened, so a rotated token, a renewed
certificate or an edited kubeconfig takes effect with the next connection.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Mount path used by the kubelet (Kubernetes docs, "Accessing the Kubernetes API from a Pod").
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class KubeAccess:
    """How to reach the API server.

    Attributes:
        kubeconfig: One path, or several separated by ``:``; None for in-cluster access.
        context: Context of the kubeconfig; None for its current one.
        service_account: Directory with ``token``, ``ca.crt`` and ``namespace``, for in-cluster use.
        environ: Contains the API server's address, for in-cluster use.
    """

    kubeconfig: str | None
    context: str | None
    service_account: Path
    environ: Mapping[str, str]

    def __str__(self) -> str:
        return "in cluster" if self.kubeconfig is None else f"kubeconfig {self.kubeconfig}"


def find_access(
    kubeconfig: str | None,
    context: str | None = None,
    *,
    environ: Mapping[str, str],
    home: Path,
    service_account: Path = SERVICE_ACCOUNT,
) -> KubeAccess:
    """Return the first that exists: the given kubeconfig, ``KUBECONFIG``, in-cluster, home's.

    The order is that of controller-runtime's ``GetConfig``.

    Raises:
        ValueError: One sentence that says which file is missing, or what was tried.
    """

    def by_file(paths: str) -> KubeAccess:
        return KubeAccess(paths, context, service_account, environ)

    for paths, said in ((kubeconfig, "the kubeconfig"), (environ.get("KUBECONFIG"), "KUBECONFIG")):
        if paths:
            if not any(Path(p).expanduser().is_file() for p in paths.split(os.pathsep) if p):
                raise ValueError(f"{said} {paths} is not a file")
            return by_file(paths)
    if environ.get("KUBERNETES_SERVICE_HOST"):
        token = service_account / "token"
        if not token.is_file():
            raise ValueError(
                f"this is a Kubernetes pod, but no service account token is mounted at {token}"
            )
        return KubeAccess(None, None, service_account, environ)
    fallback = home / ".kube" / "config"
    if not fallback.is_file():
        raise ValueError(
            f"no Kubernetes API found: not in a cluster, no KUBECONFIG, no file {fallback}"
        )
    return by_file(str(fallback))
