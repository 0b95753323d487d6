"""The images and the chart agree; scripts/image builds and runs the router's own."""

import re

from tests.helm.chart import CHART, ROOT, container, deployments, render

DOCKERFILE = (ROOT / "Dockerfile").read_text()
ENGINE = (ROOT / "deploy" / "engine.Dockerfile").read_text()


def test_the_chart_runs_the_image_as_the_user_it_was_made_for():
    (uid,) = re.findall(r"^ARG UID=(\d+)$", DOCKERFILE, re.M)
    assert re.search(r"^USER \$\{UID\}:\$\{UID\}$", DOCKERFILE, re.M)
    pod = deployments(render("defaults"), "router")[0]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == int(uid) > 0
    assert pod["securityContext"]["fsGroup"] == int(uid)


def test_the_chart_mounts_the_spool_where_the_image_has_it():
    (folder,) = re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.M)
    main = container(deployments(render("defaults"), "router")[0]["spec"]["template"], "router")
    assert {"name": "spool", "mountPath": folder} in main["volumeMounts"]
    assert f"--spool-dir={folder}" in main["args"]
    assert f"TMPDIR={folder}" in DOCKERFILE


def test_the_image_is_built_in_stages_and_the_last_has_no_pip():
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert stages == ["${BASE}", "${BASE}"]
    assert "COPY --from=build /opt/vllm-router /opt/vllm-router" in DOCKERFILE
    assert "pip uninstall --yes pip" in DOCKERFILE


def test_the_build_context_holds_what_is_copied_and_little_else():
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)
        for source in line.split()[:-1]
    }
    assert "*" in ignore
    assert copied == allowed
    for name in copied:
        assert (ROOT / name).exists()


def test_the_engines_image_is_the_release_the_chart_pins():
    (release,) = re.findall(r"^ARG VLLM=(\S+)$", ENGINE, re.M)
    values = (CHART / "values.yaml").read_text()
    assert f"tag: v{release}\n" in values


def test_audio_packages_are_those_the_engines_are_tested_with():
    lock = (ROOT / "scripts" / "vllm-cpu.lock").read_text().splitlines()
    engine = deployments(render("httproute"), "engine")[0]["spec"]["template"]["spec"]
    (installer,) = engine["initContainers"]
    pinned = {line.split(" ")[0] for line in lock}
    assert installer["args"]
    assert set(installer["args"]) <= pinned
    assert "--no-deps" in installer["command"]
