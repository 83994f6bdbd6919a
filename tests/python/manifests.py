"""What conf/kubernetes makes: each overlay by kubectl's kustomize, the chart by Helm, each document held against the schemas of
Kubernetes, strictly. Prints one line of JSON: what was made of each, as a list of documents, or what is wrong."""

import json
import pathlib
import shutil
import subprocess
import sys

import helm_python
import kubernetes_validate
import yaml

CONF = pathlib.Path(__file__).parents[2] / "conf" / "kubernetes"
KUBECTL = pathlib.Path(sys.executable).with_name("kubectl")
# The oldest and the newest that are looked at.
VERSIONS = ["1.30", "1.36"]
# What only clusters with the Prometheus operator or the Gateway API know has no schema here.
FOREIGN = {"monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1"}

ALL = {
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True},
    "namespaces": ["chat", "games"],
    "service": {"annotations": {"example.com/lb": "internal"}},
    "image": {"tag": "1.2.3"},
}


LISTENERS = """
threads: 1
listeners:
  - { name: web, address: "0.0.0.0:8080" }
  - { name: tls, address: "0.0.0.0:8443", tls: { certificates: [] } }
admin: { address: "0.0.0.0:9901", token_file: /etc/sockgate-admin/token }
drain: { delay: 5s, deadline: 50s }
"""
CONTROLLER = {"config": LISTENERS, "controller": {"enabled": True, "default": True, "gatewayClass": "edge"}}
NAMESPACED = {"config": LISTENERS, "controller": {"enabled": True, "namespaces": ["chat", "games"], "gateways": ["chat/edge"]}}


def kustomize(folder):
    made = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
    if made.returncode:
        raise SystemExit(f"{folder}: {made.stderr}")
    return list(yaml.safe_load_all(made.stdout))


def with_components(scratch):
    """The overlay with every component that it names in comments."""
    shutil.copytree(CONF, scratch / "kubernetes")
    file = scratch / "kubernetes" / "overlays" / "discovery" / "kustomization.yaml"
    file.write_text(file.read_text().replace("  # - ../../components/", "  - ../../components/"))
    return kustomize(file.parent)


def rendered(values):
    with helm_python.Chart.load(CONF / "chart") as chart:
        files = chart.render(values=values, name="edge", namespace="gateways")
    texts = files.values() if isinstance(files, dict) else [file["data"] for file in files]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def check(name, documents):
    for document in documents:
        if document["apiVersion"] in FOREIGN:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as fault:
                raise SystemExit(f"{name}: {document['kind']}: {version}: {fault.message}") from fault


def main(scratch):
    lint = helm_python.lint(CONF / "chart")
    made = {
        "discovery": kustomize(CONF / "overlays" / "discovery"),
        "components": with_components(pathlib.Path(scratch)),
        "sidecar": kustomize(CONF / "overlays" / "sidecar"),
        "controller": kustomize(CONF / "overlays" / "controller"),
        "controller for gateways": kustomize(CONF / "overlays" / "gateway-api"),
        "chart": rendered({}),
        "chart with all": rendered(ALL),
        "chart with controller": rendered(CONTROLLER),
        "chart with controller of namespaces": rendered(NAMESPACED),
    }
    for name, documents in made.items():
        check(name, documents)
    print(json.dumps({"lint": lint, "made": made}))


main(sys.argv[1])
