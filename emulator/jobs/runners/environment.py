"""The environment of a training process: what it needs, and nothing of the server's own."""

from __future__ import annotations

import os
from collections.abc import Mapping

from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.slots import DEVICES
from amlocal.emulator.settings import Settings
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace

# Where programs, libraries, accelerators and caches are found. No variable that can hold a secret.
_KEPT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "XDG_CACHE_HOME",
)
_LOOPBACK = "localhost,127.0.0.1,::1"


def of_trial(
    settings: Settings,
    folder: DataFolder,
    workspace: Workspace,
    root: JobRecord,
    leaf: JobRecord,
    token: str,
    *,
    threads: int,
    environ: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The complete environment of one trial; `token` is all that it may do, `threads` what it may use.

    Of the variables that Azure Machine Learning gives to scripts, those whose values are true here:
    AZUREML_RUN_ID, AZUREML_ROOT_RUN_ID, AZUREML_EXPERIMENT_NAME, AZUREML_ARM_SUBSCRIPTION,
    AZUREML_ARM_RESOURCEGROUP, AZUREML_ARM_WORKSPACE_NAME and MLFLOW_*. Commands get beside them
    AZUREML_ARM_PROJECT_NAME (the experiment), AZUREML_WORKSPACE_ID, AZUREML_WORKSPACE_SCOPE (the ARM id),
    AZUREML_SERVICE_ENDPOINT, AZUREML_RUN_TOKEN (good for this run only), AZUREML_NODE_COUNT, those of their
    distribution (see `jobs/distribution.py`), and as trials AZUREML_SWEEP_* with parameters, inputs and
    outputs. Not given, for nothing stands behind them here:
    AZUREML_EXPERIMENT_ID, AZUREML_CR_* (the container runtime's) and AZ_BATCH_* outside MPI jobs.
    CUDA_VISIBLE_DEVICES names the GPUs that the job holds, where the host has some and it asked for them.
    """
    source = os.environ if environ is None else environ
    bundle = str(folder.tls / "bundle.pem")
    kept = {name: source[name] for name in _KEPT if source.get(name)}
    if leaf.properties.get(DEVICES):
        kept["CUDA_VISIBLE_DEVICES"] = leaf.properties[DEVICES]
    return {
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": str(threads),
        **kept,
        "TMPDIR": str(folder.tmp),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": _LOOPBACK,
        "no_proxy": _LOOPBACK,
        "REQUESTS_CA_BUNDLE": bundle,
        "SSL_CERT_FILE": bundle,
        "MLFLOW_TRACKING_URI": f"{settings.base_url}/mlflow/v1.0{workspace.arm_id}",
        "MLFLOW_TRACKING_TOKEN": token,
        "MLFLOW_RUN_ID": leaf.name,
        "MLFLOW_EXPERIMENT_NAME": leaf.experiment,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "AZUREML_RUN_ID": leaf.name,
        "AZUREML_ROOT_RUN_ID": root.name,
        "AZUREML_EXPERIMENT_NAME": leaf.experiment,
        "AZUREML_ARM_SUBSCRIPTION": workspace.subscription,
        "AZUREML_ARM_RESOURCEGROUP": workspace.resource_group,
        "AZUREML_ARM_WORKSPACE_NAME": workspace.name,
    }
