"""Wrong values are refused before anything is made, with the value's name and what is expected."""

import pytest
from tests.helm.chart import CHART, helm

ENGINE = "router.discovery.static.engines"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("router.replicas=two", "router.replicas: Invalid type. Expected: integer, given: string"),
        ("router.replcas=2", "router: Additional property replcas is not allowed"),
        ("router.discovery.type=consul", 'one of the following: "k8s", "static", "file", "dns"'),
        ("router.routing.logic=random", "router.routing.logic must be one of the following"),
        ("router.port=80", "router.port: Must be greater than or equal to 1024"),
        ("router.hpa.enabled=yes", "router.hpa.enabled: Invalid type. Expected: boolean"),
        ("longestRequestSeconds=0", "longestRequestSeconds: Must be greater than or equal to 1"),
        ("router.discovery.type=static", f"{ENGINE} is empty"),
        ("router.discovery.type=file", "router.discovery.file.engines is empty"),
        (f"{ENGINE}[0].url=whisper:8000", f'{ENGINE}[0].url: "whisper:8000" is not a URL'),
        (f"{ENGINE}[0].model=m", "url is required"),
        (
            f"{ENGINE}[0].url=http://a,{ENGINE}[0].model=m,{ENGINE}[1].url=http://b",
            '"model" is given for 1 of 2 engines; give it for all or for none',
        ),
        ("router.rootPath=asr", 'router.rootPath: "asr" is not a path that begins with a slash'),
        ("router.image.repository=a/b:1", "is not a repository without tag or digest"),
        ("router.pdb.maxUnavailable=some", "is not a number or a percentage"),
        ("router.routing.logic=session", "router.routing.sessionKey is empty"),
        ("router.config.api_key=k", "a ConfigMap is no place for a key; use router.auth"),
        ("router.config.engine-api-key=k", "a ConfigMap is no place for a key; use router.auth"),
        ("router.config.port=80", "would be overruled by the chart's own flag --port"),
        ("router.extraArgs[0]=--api-key=k", "a command line is no place for a key"),
        ("router.extraArgs[0]=--admin-key=k", "a command line is no place for a key"),
        ("router.extraArgs[0]=workers", 'router.extraArgs[0]: "workers" is not a flag'),
        ("router.auth.existingSecret=s,router.auth.adminKey=k", "not both"),
        ("router.auth.existingSecretKeys[0]=key", "must be one of the following"),
        ("router.terminationGracePeriodSeconds=60", "at least 625 is needed"),
        ("router.hpa.enabled=true,router.hpa.minReplicas=11", "minReplicas (11) is above"),
        ("router.httpRoute.enabled=true", "router.httpRoute.parentRefs is empty"),
        ("router.serviceAccount.create=false", "router.serviceAccount.name is empty"),
        (
            "router.discovery.type=static,router.networkPolicy.restrictEgress=true,"
            f"{ENGINE}[0].url=http://a",
            "router.networkPolicy.extraEgress is empty",
        ),
        ("engines.groups.a.replicas=2", "engines.groups.a.model is empty"),
        ("engines.groups.a.modle=m", "Additional property modle is not allowed"),
        ("engines.groups.Big.model=m", '"Big" is not a group\'s name'),
        ("engines.groups.a.model=m,engines.groups.a.cache.size=30GB", "is not a size such as 30Gi"),
        ("engines.groups.a.model=m,engines.groups.a.cache.type=existingClaim", "name the claim"),
        ("engines.groups.a.model=m,engines.groups.a.audioPackages[0]=av", "such as av==17.0.1"),
        ("engines.groups.a.keda.minReplicas=0", "minReplicas: Must be greater than or equal to 1"),
        (
            "engines.groups.a.model=m,engines.groups.a.keda.enabled=true",
            "prometheusAddress is empty",
        ),
        (
            "engines.groups.a.model=m,engines.groups.a.keda.enabled=true,"
            "engines.groups.a.keda.minReplicas=5,engines.groups.a.keda.prometheusAddress=http://p",
            "minReplicas (5) is above maxReplicas (4)",
        ),
        ("monitoring.podMonitor.interval=often", "is not a duration such as 15s"),
    ],
)
def test_a_wrong_value_is_refused_in_words(settings, words):
    done = helm("template", "rel", str(CHART), "--set", settings)
    assert done.returncode != 0
    assert words in done.stderr


def test_an_old_cluster_is_refused():
    done = helm("template", "rel", str(CHART), "--kube-version", "1.24.0")
    assert done.returncode != 0
    assert "kubeVersion" in done.stderr
