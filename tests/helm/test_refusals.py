"""Wrong values are refused before anything is made, with the value's name and what is expected."""

import re

import kubernetes_validate
import pytest
import yaml
from tests.helm.chart import CHART, NEWEST, helm

#: RFC 1035 for Services, RFC 1123 for the rest, as the API server checks them.
SERVICE_NAME = "[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
OBJECT_NAME = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
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
        ("clusterDomain=null", 'clusterDomain: "" is not a domain such as cluster.local'),
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
        ("fullnameOverride=1asr", 'fullnameOverride: "1asr" is not a Service\'s name'),
        ("fullnameOverride=my_asr", "with a letter first"),
        (f"fullnameOverride={'a' * 41}", "fullnameOverride: String length must be less than"),
        ("nameOverride=Whisper", 'nameOverride: "Whisper" is not a name'),
        ("nameOverride=a_b", 'nameOverride: "a_b" is not a name'),
        ("nameOverride=a.b", 'nameOverride: "a.b" is not a name'),
        (f"nameOverride={'a' * 41}", "nameOverride: String length must be less than"),
        ("router.service.port=0", "router.service.port: Must be greater than or equal to 1"),
        ("router.service.port=70000", "router.service.port: Must be less than or equal to 65535"),
        ("router.port=70000", "router.port: Must be less than or equal to 65535"),
        ("router.service.nodePort=30801", "router.service.type is ClusterIP"),
        ("engines.groups.a.port=0,engines.groups.a.model=m", "port: Must be greater than or equal"),
        ("router.discovery.k8s.port=a_port", "router.discovery.k8s.port"),
        ("router.discovery.k8s.port=a-name-too-long-for-ports", "router.discovery.k8s.port"),
        ("clusterDomain=cluster_local", 'clusterDomain: "cluster_local" is not a domain'),
        ("commonLabels.team=a b", 'commonLabels.team: "a b" is not a label\'s value'),
        (f"commonLabels.team={'a' * 64}", "up to 63 letters"),
        ("commonLabels.-team=a", 'commonLabels, key: "-team" is not a label'),
        ("commonLabels.app\\.kubernetes\\.io/name=a", "choose another"),
        ("router.podLabels.app\\.kubernetes\\.io/instance=a", "choose another"),
        ("router.nodeSelector.gpu=a b", 'router.nodeSelector.gpu: "a b" is not'),
        (
            "engines.groups.a.model=m,engines.groups.a.podLabels.x=-",
            'engines.groups.a.podLabels.x: "-" is not a label\'s value',
        ),
        ("monitoring.serviceMonitor.labels.release=a b", "monitoring.serviceMonitor.labels"),
        ("router.auth.existingSecret=My_Secret", "router.auth.existingSecret: "),
        ("router.serviceAccount.name=My_Account", "router.serviceAccount.name: "),
        ("imagePullSecrets[0].name=My_Secret", "imagePullSecrets[0].name: "),
        ("engines.groups.a.model=m,engines.groups.a.hfTokenSecret=A", "hfTokenSecret: "),
        ("router.ingress.hosts[0]=https://asr", "router.ingress.hosts[0]: "),
        ("router.pdb.maxUnavailable=150%", "is not a number or a percentage"),
        ("router.strategy.rollingUpdate.maxSurge=0", "maxSurge and maxUnavailable are both 0"),
        ("router.strategy.rollingUpdate.maxSurge=some", "is not a number or a percentage"),
        (
            "engines.groups.a.model=m,engines.groups.a.strategy.rollingUpdate.maxSurge=0%",
            "engines.groups.a.strategy.rollingUpdate: maxSurge and maxUnavailable are both 0",
        ),
    ],
)
def test_a_wrong_value_is_refused_in_words(settings, words):
    done = helm("template", "rel", str(CHART), "--set", settings)
    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize("release", ["1asr", "123", "a.b", "0"])
def test_a_release_whose_services_nobody_could_make_is_refused_in_a_sentence(release):
    done = helm("template", release, str(CHART))
    assert done.returncode != 0
    words = f'release name "{release}": its Service would be called "{release}-vllm-whisper-router"'
    assert words in done.stderr
    assert "choose another release name or set fullnameOverride" in done.stderr


def objects(values, at=""):
    """Yield the paths of the values that are objects; what a group may leave out has no end."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{at}{name}"
            if name != "defaults":
                yield from objects(value, f"{at}{name}.")


OBJECTS = list(objects(yaml.safe_load((CHART / "values.yaml").read_text())))


@pytest.mark.parametrize("path", OBJECTS)
def test_an_object_that_was_deleted_with_null_is_empty_or_missed_in_a_sentence(path):
    values = str(CHART / "ci" / "everything-values.yaml")
    done = helm("template", "rel", str(CHART), "--values", values, "--set", f"{path}=null")
    if done.returncode != 0:
        assert f"{path.rpartition('.')[2]} is required" in done.stderr
        assert "template:" not in done.stderr


@pytest.mark.parametrize("namespace", ["My_Namespace", "a" * 64, "a.b"])
def test_a_namespace_that_cannot_be_is_refused(namespace):
    done = helm("template", "rel", str(CHART), "--namespace", namespace)
    assert done.returncode != 0
    assert "is not a namespace" in done.stderr


#: What helm takes for a release, and what YAML, truncation or Kubernetes could make of it.
RELEASES = [
    *("true", "null", "yes", "n", "e5", "a-1", "vllm-whisper-router", "a" * 53, "b" * 39 + "--c"),
    *("1asr", "12", "1e3", "0x1f", "a.b", "a-vllm-whisper-router.b"),
]
NAMINGS = [
    "fullnameOverride=asr",
    "fullnameOverride=true",
    "nameOverride=t",
    "nameOverride=1",
    "nameOverride=null-",
    "engines.groups.1.model=m",
    "engines.groups.true.model=m,engines.groups.true.cache.type=pvc",
    "router.strategy.type=Recreate",
]


@pytest.mark.parametrize(
    ("release", "naming"),
    [*((release, "") for release in RELEASES), *(("true", naming) for naming in NAMINGS)],
)
def test_whatever_the_names_the_api_server_takes_them_or_the_chart_refuses(release, naming):
    command = ["template", release, str(CHART), "--namespace", "12"]
    command += ["--values", str(CHART / "ci" / "two-models-values.yaml"), "--set-string", naming]
    done = helm(*command)
    if done.returncode != 0:
        # The chart's own words, not a template that broke.
        assert "execution error at" in done.stderr
        assert "is not a name" in done.stderr or "its Service would be called" in done.stderr
        return
    for each in yaml.load_all(done.stdout, yaml.CSafeLoader):
        if not each:
            continue
        metadata = each["metadata"]
        is_service = each["kind"] == "Service"
        assert re.fullmatch(SERVICE_NAME if is_service else OBJECT_NAME, metadata["name"])
        for text in (metadata["namespace"], *metadata["labels"].values()):
            assert isinstance(text, str)
            assert re.fullmatch(LABEL_VALUE, text)
        if each["apiVersion"] in ("v1", "apps/v1", "policy/v1", "networking.k8s.io/v1"):
            kubernetes_validate.validate(each, NEWEST.rpartition(".")[0], strict=True)


def test_an_old_cluster_is_refused():
    done = helm("template", "rel", str(CHART), "--kube-version", "1.24.0")
    assert done.returncode != 0
    assert "kubeVersion" in done.stderr
