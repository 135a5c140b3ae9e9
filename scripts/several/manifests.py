"""Do the manifests of a training fit the schemas that Kubeflow's operators install? A cluster would say it too late."""

from pathlib import Path
from typing import Any

import jsonschema
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "minigpt/serve/deploy"
# Where Kubeflow's repository (github.com/kubeflow/trainer, manifests/base/crds) keeps them: TrainJob on its main
# branch, PyTorchJob on release-1.9.
SCHEMAS = {
    "trainjob.yaml": "trainer.kubeflow.org_trainjobs.yaml", "pytorchjob.yaml": "kubeflow.org_pytorchjobs.yaml",
}  # fmt: skip


def faults(file: Path, schemas: Path) -> list[str]:
    """What is wrong with a manifest by the definition of its kind, unknown keys included."""
    manifest = yaml.safe_load(file.read_text("utf-8"))
    definition = yaml.safe_load((schemas / SCHEMAS[file.name]).read_text("utf-8"))["spec"]
    group, version = manifest["apiVersion"].split("/")
    if (group, manifest["kind"]) != (definition["group"], definition["names"]["kind"]):
        return [f"{group} {manifest['kind']} is not {definition['group']} {definition['names']['kind']}"]
    known = {one["name"]: one["schema"]["openAPIV3Schema"] for one in definition["versions"] if one["served"]}
    if version not in known:
        return [f"version {version} is not one of {', '.join(known)}"]
    found = jsonschema.Draft202012Validator(strict(known[version])).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}" for error in found]


def strict(schema: Any) -> Any:
    """The schema without room for other keys than it names: a cluster would drop them without a word."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        if schema["properties"].keys() == {"apiVersion", "kind", "metadata", "spec", "status"}:
            found["properties"]["metadata"] = {"type": "object", "required": ["name"]}
        found.setdefault("additionalProperties", schema.get("x-kubernetes-preserve-unknown-fields", False))
    return found
