"""What a request for an online deployment asks for: its model, code and environment, checked at submit.

What has an effect that amlocal does not give is refused by name; labels are kept as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amlocal.compat.azureml_uri import AssetUri, UriError, clean_path, parse
from amlocal.emulator.arm import codes, deployment_settings, documents, environments
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.models import MODELS
from amlocal.emulator.arm.resource import Call, find, missing
from amlocal.emulator.endpoints import pickles
from amlocal.emulator.http.errors import bad_request, conflict, not_there_yet
from amlocal.emulator.jobs.fields import shown


def read(call: Call, properties: Mapping[str, Any], sku: Any) -> dict[str, Any]:
    """The deployment's own settings, as `endpoints/scaling.py` reads them. Raises AzureError.

    Everything is named by version: what a label means later does not change a deployment.
    """
    _refuse(properties)
    model = _model(call, properties.get("model"))
    code = _code(call, properties.get("codeConfiguration"))
    if code is None:
        _check_without_code(model)
    if model is not None:
        _check_files(call, model)
    return {
        **(model_settings(model) if model is not None else {}),
        **(code or {}),
        "environment_id": _environment(call, properties.get("environmentId")),
        "variables": deployment_settings.variables(properties.get("environmentVariables")),
        "instances": deployment_settings.instances(sku),
        **deployment_settings.requests(properties.get("requestSettings")),
        "liveness": deployment_settings.probe(properties.get("livenessProbe"), "livenessProbe"),
        "readiness": deployment_settings.probe(properties.get("readinessProbe"), "readinessProbe"),
    }


def _check_files(call: Call, model: Document) -> None:
    """Raises AzureError 400 when the model's files are gone, or are pickled where that is not trusted."""
    uri, label = model.properties["modelUri"], f"{model.name}:{model.version}"
    path = call.services.resolver.resolve(call.workspace, uri)
    if not path.exists():
        raise bad_request("InvalidModel", f"the files of model {label} are gone: {uri}", target="model")
    if call.services.settings.trust_pickle != "never":
        return
    why = pickles.find(path, model.properties.get("flavors") or {})
    if why is not None:
        raise bad_request(
            "PickledModel",
            f"model {label} holds pickled content, which can run any code when it is loaded, and the setting "
            f"trust_pickle is never: {why}. Save the model in another format, or start the server with "
            "--trust-pickle always.",
            target="model",
        )


def model_settings(model: Document) -> dict[str, Any]:
    """The part of the settings that a model gives."""
    return {
        "model": f"{model.name}:{model.version}",
        "model_uri": model.properties["modelUri"],
        "model_type": model.properties.get("modelType"),
    }


def check_unchanged(present: Document, properties: Mapping[str, Any]) -> None:
    """Raises AzureError 409 for a property that Azure takes only when a deployment is created."""
    for name, word in (("instanceType", "instance_type"), ("endpointComputeType", "type")):
        old, new = present.properties.get(name), properties.get(name)
        if old and new and str(old).lower() != str(new).lower():
            raise conflict(
                f"{word} of a deployment cannot be changed: it is {shown(old)}, not {shown(new)}. "
                "Create a deployment of another name and move the traffic to it.",
                target=name,
            )


def _refuse(properties: Mapping[str, Any]) -> None:
    """Raises AzureError for what is not done here."""
    kind = str(properties.get("endpointComputeType") or "Managed")
    if kind.lower() != "managed":
        if kind.lower() in ("kubernetes", "azuremlcompute"):
            raise not_there_yet(f"An online deployment on {kind} (endpointComputeType)")
        raise bad_request(
            "InvalidEndpointComputeType",
            f"endpointComputeType {shown(kind)}: use Managed.",
            target="endpointComputeType",
        )
    scale = properties.get("scaleSettings")
    if scale is not None and not isinstance(scale, dict):
        raise bad_request(
            "InvalidRequestContent", "`properties.scaleSettings` must be an object.", target="scaleSettings"
        )
    scaling = str((scale or {}).get("scaleType") or "Default")
    if scaling.lower() != "default":
        raise bad_request(
            "InvalidScaleSettings",
            f"scale_settings.type {shown(scaling)}: a managed online deployment takes only default "
            "(target_utilization is for Kubernetes). Set instance_count.",
            target="scaleSettings",
        )
    for name in ("appInsightsEnabled", "privateNetworkConnection"):
        if properties.get(name) is not None and not isinstance(properties[name], bool):
            raise bad_request(
                "InvalidRequestContent", f"`properties.{name}` must be true or false.", target=name
            )
    for name in ("instanceType", "egressPublicNetworkAccess", "modelMountPath"):
        if properties.get(name) is not None and not isinstance(properties[name], str):
            raise bad_request("InvalidRequestContent", f"`properties.{name}` must be a text.", target=name)
    egress = str(properties.get("egressPublicNetworkAccess") or "Enabled").lower()
    if egress == "disabled" or properties.get("privateNetworkConnection"):
        raise not_there_yet("Keeping a deployment from the network (egress_public_network_access disabled)")
    if egress != "enabled":
        raise bad_request(
            "InvalidEgressPublicNetworkAccess",
            f"egress_public_network_access is {shown(properties['egressPublicNetworkAccess'])}: "
            "use enabled or disabled.",
            target="egressPublicNetworkAccess",
        )
    if properties.get("modelMountPath"):
        raise not_there_yet("model_mount_path, which is for containers of one's own,")
    if properties.get("startupProbe"):
        raise not_there_yet("A startup probe of an online deployment")
    if _collects(properties.get("dataCollector")):
        raise not_there_yet("Data collection of an online deployment (data_collector)")


def _collects(collector: Any) -> bool:
    if not isinstance(collector, dict):
        return bool(collector)
    collections = collector.get("collections")
    if not isinstance(collections, dict):
        return bool(collections)
    return any(
        not isinstance(one, dict) or str(one.get("dataCollectionMode")).lower() != "disabled"
        for one in collections.values()
    )


def _reference(call: Call, reference: str, kind: str, field: str) -> AssetUri:
    """An asset of this workspace. Raises AzureError 400."""
    code = f"Invalid{field[0].upper()}{field[1:]}"
    try:
        # azure-ai-ml leaves the prefix of azureml:NAME@latest in the id.
        parsed = parse(reference.replace("/azureml:", "/", 1) if reference[:1] == "/" else _named(reference))
    except UriError as error:
        raise bad_request(code, str(error), target=field) from error
    if not isinstance(parsed, AssetUri) or parsed.kind not in (None, kind):
        raise bad_request(
            code, f"{shown(reference)} does not name one of the workspace's {kind}.", target=field
        )
    if parsed.registry is not None:
        raise not_there_yet(f"Deploying one of the {kind} of a registry ({parsed.registry})")
    named = parsed.workspace
    if named is not None:
        other = f"{named.subscription}/{named.resource_group}/{named.workspace}"
        if other.lower() != call.workspace.key:
            raise bad_request(code, f"{shown(reference)} is in another workspace.", target=field)
    if parsed.label not in (None, "latest"):
        raise bad_request(code, f"{shown(reference)}: the only label is latest.", target=field)
    return parsed


def _named(reference: str) -> str:
    return reference if reference[:8].lower() == "azureml:" else f"azureml:{reference}"


def _model(call: Call, reference: Any) -> Document | None:
    if reference is None:
        return None
    if isinstance(reference, dict):  # the newest REST API knows a model by an object, too
        reference = reference.get("assetId")
    if not isinstance(reference, str) or not reference:
        raise bad_request("InvalidModel", "`properties.model` must name a registered model.", target="model")
    asset = _reference(call, reference, "models", "model")
    if asset.version is not None:
        return find(call.services, call.workspace, MODELS, asset.name, asset.version)
    newest = call.services.store.read(
        lambda c: documents.latest(c, call.workspace.id, MODELS.kind, asset.name)
    )
    if newest is None:
        raise missing(MODELS, asset.name, "latest")
    return newest


def _check_without_code(model: Document | None) -> None:
    """Raises AzureError when nothing says how requests are answered."""
    if model is None:
        raise bad_request(
            "InvalidDeployment",
            "A deployment needs a model or code: give `model`, or `code_configuration` with its script.",
            target="model",
        )
    label, kind = f"{model.name}:{model.version}", model.properties.get("modelType")
    if kind == "triton_model":
        raise not_there_yet(f"Deploying model {label}, a triton_model,")
    if kind != "mlflow_model":
        raise bad_request(
            "InvalidModel",
            f"model {label} is a {kind}; without a scoring script only an mlflow_model can be deployed. Give "
            "code_configuration=CodeConfiguration(code=FOLDER, scoring_script='score.py') with a script that "
            "has init() and run(), or register the model as an mlflow_model.",
            target="model",
        )
    flavors = model.properties.get("flavors") or {}
    if "python_function" not in flavors:
        raise bad_request(
            "InvalidModel",
            f"model {label} has the flavors {', '.join(flavors) or 'none'}, but no python_function, which "
            "answers requests without a scoring script. Give code_configuration.",
            target="model",
        )


def _code(call: Call, configuration: Any) -> dict[str, Any] | None:
    """`codeConfiguration` as kind, code_id and score_script; None without. Raises AzureError."""
    if configuration is None:
        return None
    if not isinstance(configuration, dict):
        raise bad_request(
            "InvalidCodeConfiguration",
            "`properties.codeConfiguration` must be an object.",
            target="codeConfiguration",
        )
    reference, script = configuration.get("codeId"), configuration.get("scoringScript")
    if not isinstance(reference, str) or not reference:
        raise bad_request(
            "InvalidCodeConfiguration",
            "code_configuration needs `code`, a local folder.",
            target="codeConfiguration.codeId",
        )
    if not isinstance(script, str) or not script:
        raise bad_request(
            "InvalidCodeConfiguration",
            "code_configuration needs `scoring_script`, a file in `code`.",
            target="codeConfiguration.scoringScript",
        )
    asset = _reference(call, reference, "codes", "codeId")
    document = call.services.store.read(
        lambda c: documents.get(c, call.workspace.id, "codes", asset.name, asset.version or "")
    )
    if document is None:
        raise bad_request(
            "InvalidCodeConfiguration",
            f"codeId {shown(reference)}: workspace {call.workspace.name} has no such code asset.",
            target="codeConfiguration.codeId",
        )
    uri = str(document.properties.get("codeUri"))
    path = codes.folder_of(call.services.folder, call.workspace, uri)
    return {"kind": "script", "code_uri": uri, "score_script": _script(path, script)}


def _script(code: Path, script: str) -> str:
    """The scoring script's path below the code. Raises AzureError 400 unless it is a Python file there."""
    refused = "InvalidScoringScript"
    target = "codeConfiguration.scoringScript"
    try:
        relative = clean_path(script.replace("\\", "/"))
    except UriError as error:
        raise bad_request(refused, f"scoring_script {error}", target=target) from error
    root = code if code.is_dir() else code.parent
    file = root / relative
    real = file.resolve()
    if not real.is_relative_to(root.resolve()):
        raise bad_request(refused, f"scoring_script {shown(script)} leaves the code folder.", target=target)
    if not real.is_file() or (code.is_file() and real != code.resolve()):
        there = sorted(found.name for found in root.iterdir())[:20] if root.is_dir() else []
        raise bad_request(
            refused,
            f"the code has no file {shown(script)}. It has: {', '.join(there) or 'nothing'}. "
            "scoring_script is a path relative to `code`.",
            target=target,
        )
    return relative


def _environment(call: Call, reference: Any) -> str | None:
    """The environment as NAME:VERSION or as it was given. Raises AzureError 400."""
    if reference is None or reference == "":
        return None
    if not isinstance(reference, str):
        raise bad_request("InvalidEnvironment", "`environmentId` must be a text.", target="environmentId")
    found = environments.definition(call.services.store, call.workspace, reference)
    if found.properties.get("inferenceConfig"):
        raise not_there_yet(
            f"Environment {found.label} with a server of its own (inference_config), which its image starts,"
        )
    return reference
