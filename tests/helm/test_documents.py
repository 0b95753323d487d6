"""What people read says what the chart does: README, schema, NOTES and the plain manifests."""

import json
import subprocess
import sys

import jsonschema
import kubernetes_validate
import pytest
import yaml
from tests.helm.chart import CHART, ROOT, render, rendered_notes

BASE = ROOT / "deploy" / "base"


@pytest.mark.parametrize("script", ["helm_docs.py", "plain_manifest.py"])
def test_what_is_made_by_a_script_is_up_to_date(script):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_schema_knows_every_value_and_no_other():
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)

    def compare(here, values, path):
        while "$ref" in here:
            here = schema["definitions"][here["$ref"].rpartition("/")[2]]
        if not values or "properties" not in here or "probe" in path.lower():
            return
        assert set(here["properties"]) - {"global", "claims"} == set(values), path
        for key, value in values.items():
            if isinstance(value, dict):
                compare(here["properties"][key], value, f"{path}.{key}")

    compare(schema, yaml.safe_load((CHART / "values.yaml").read_text()), "")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("defaults", "port-forward service/rel-vllm-whisper-router 8001:80"),
        ("defaults", "NOTE: there are no engines yet"),
        ("defaults", "NOTE: no key is required of clients"),
        ("two-models", "MODEL=openai/whisper-large-v3\n"),
        ("nodeport", "jsonpath='{.spec.ports[0].nodePort}'"),
        ("ingress", "URL=https://whisper.example.com/asr\n"),
        ("ingress", "get secret rel-vllm-whisper-router-keys"),
        ("httproute", "URL=https://whisper.example.com\n"),
        ("httproute", "get secret whisper-keys"),
    ],
)
def test_notes_say_how_to_send_the_first_request(tmp_path, name, words):
    text = rendered_notes(tmp_path, name)
    assert words in text
    assert 'curl "$URL/v1/audio/transcriptions"' in text


@pytest.mark.parametrize("name", ["defaults", "ingress", "two-models"])
def test_the_commands_in_the_notes_are_a_shells(tmp_path, name):
    commands = [
        line for line in rendered_notes(tmp_path, name).splitlines() if line.startswith("  ")
    ]
    script = "\n".join(commands)
    assert "curl" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_plain_manifest_fits_the_schemas_and_names_no_helm():
    objects = list(yaml.load_all((BASE / "vllm-router.yaml").read_text(), yaml.CSafeLoader))
    assert objects[0]["kind"] == "Namespace"
    for each in objects:
        kubernetes_validate.validate(each, "1.37", strict=True)
        assert "helm.sh/chart" not in each["metadata"]["labels"]
        assert each["metadata"].get("namespace", "whisper") == "whisper"
    kinds = {each["kind"] for each in render("two-models")} - {"PersistentVolumeClaim", "Pod"}
    assert kinds <= {each["kind"] for each in objects}


def test_the_overlay_changes_things_that_are_there():
    base = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    assert base["resources"] == ["vllm-router.yaml"]
    example = ROOT / "deploy" / "overlays" / "example"
    overlay = yaml.safe_load((example / "kustomization.yaml").read_text())
    assert [(example / each).resolve() for each in overlay["resources"]] == [BASE]
    objects = list(yaml.load_all((BASE / "vllm-router.yaml").read_text(), yaml.CSafeLoader))
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    images = {
        each["image"].rpartition(":")[0]
        for one in objects
        if one["kind"] == "Deployment"
        for each in one["spec"]["template"]["spec"]["containers"]
    }
    assert {each["name"] for each in overlay["images"]} == images
    for each in overlay["replicas"]:
        assert ("Deployment", each["name"]) in there
    for each in overlay["patches"]:
        assert (each["target"]["kind"], each["target"]["name"]) in there
        assert yaml.safe_load(each["patch"])
