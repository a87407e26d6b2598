"""One version of a deployment: its files, its environment, and the scorers that serve it."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from amlocal.emulator.arm import codes
from amlocal.emulator.arm.environments import Definition
from amlocal.emulator.endpoints import container_logs, scorer_environment, version_files
from amlocal.emulator.endpoints.probes import ProbeSettings
from amlocal.emulator.endpoints.scorers import ScorerConfig, ScorerSupervisor
from amlocal.emulator.jobs import environment_pins
from amlocal.emulator.jobs.engines import capacity
from amlocal.emulator.jobs.environments import JobEnvironments, Plan
from amlocal.emulator.jobs.inputs import Resolver
from amlocal.emulator.processes import clean_environment
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace

# Seconds that a model may take to load, unless the readiness probe allows more.
READY_TIMEOUT = 600.0
_LONGEST_CONDA = 1024**2
_HOST = "azureml:host:1"

Settings = Mapping[str, Any]


@dataclass
class Instance:
    """One scorer, by the supervisor's key."""

    key: str
    socket: Path


@dataclass
class Version:
    """Settings brought to life. `instances` are those that serve or are to serve."""

    settings: Settings
    folder: Path
    config: ScorerConfig
    instances: list[Instance] = field(default_factory=list)


def same_but_count(one: Settings, other: Settings) -> bool:
    """Whether two settings differ at most in the number of instances."""
    return {**one, "instances": 0} == {**other, "instances": 0}


class Versions:
    """Makes versions and changes their number of instances. Safe from any thread, for different versions."""

    def __init__(
        self,
        *,
        folder: DataFolder,
        resolver: Resolver,
        scorers: ScorerSupervisor,
        environments: JobEnvironments | None,
        trust_pickle: Literal["always", "never"],
        base_url: str | None = None,
    ) -> None:
        """`base_url`: where scripts find the server; None gives them no identity."""
        self._folder = folder
        self._resolver = resolver
        self._scorers = scorers
        self._environments = environments
        self._trust_pickle = trust_pickle
        self._base_url = base_url
        self._generations = itertools.count(1)

    def home(self, workspace: Workspace, name: str) -> Path:
        """The folder of the deployment `endpoint/deployment`: logs, and the files of its versions."""
        # An endpoint's name has no underscore, so no two deployments share a folder.
        return self._folder.deployments / workspace.id / name.replace("/", "_").lower()

    def plan(self, workspace: Workspace, settings: Settings) -> Plan | None:
        """How the deployment's environment is met: the one that is named, the model's own, or the host.

        Raises AzureError 400. None where this server knows no environments.
        """
        if self._environments is None:
            return None
        named = settings.get("environment_id")
        if named:
            return self._environments.plan(workspace, named, settings.get("environment"))
        own = self._of_model(workspace, settings)
        return self._environments.plan_of(own) if own else self._environments.plan(workspace, _HOST)

    def properties(self, plan: Plan | None) -> dict[str, str]:
        """What tells of an environment among a deployment's properties."""
        return {} if plan is None or self._environments is None else self._environments.properties(plan)

    def prepare(
        self, workspace: Workspace, name: str, settings: Settings, given_up: Callable[[], bool]
    ) -> Version:
        """A version without instances. Raises AzureError, JobFailure, OSError, ValueError and Abandoned."""
        home = self.home(workspace, name)
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = home / container_logs.STORAGE_INITIALIZER
        container_logs.bound(log)
        folder = home / "versions" / os.urandom(6).hex()
        try:
            config = self._config(workspace, name, settings, folder, log, given_up)
        except BaseException as error:
            container_logs.write(log, f"failed: {error}")
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Version(settings, folder, config)

    def grow(
        self, workspace: Workspace, name: str, version: Version, count: int, wanted: int
    ) -> list[Instance]:
        """Start `count` instances, which are not among the version's yet, of `wanted` in all.

        They share the processors; those that run already keep what they have.
        """
        config = version.config
        share = scorer_environment.threads(capacity.cpus(), wanted, config.env, config.base_env)
        config = replace(config, base_env={**config.base_env, **share})
        if share and count:
            log = self.home(workspace, name) / container_logs.STORAGE_INITIALIZER
            told = f"each of {wanted} instances computes in {share[scorer_environment.THREADS[0]]} thread(s)"
            container_logs.write(log, f"{told}: the host has {capacity.cpus()} processors")
        added = []
        for _ in range(count):
            key = f"{workspace.id}/{name}#{next(self._generations)}"
            added.append(Instance(key, self._scorers.start(key, config)))
        return added

    def wait(self, version: Version, instances: list[Instance], given_up: Callable[[], bool]) -> None:
        """Until all instances answer. Raises ScorerError and Abandoned."""
        readiness = version.config.readiness
        patience = readiness.initial_delay + readiness.period * readiness.failure_threshold
        deadline = time.monotonic() + max(READY_TIMEOUT, patience)
        for instance in instances:
            self._scorers.wait_ready(instance.key, deadline - time.monotonic(), given_up)

    def drop(self, instances: list[Instance], version: Version | None = None) -> None:
        """Kill instances that never served, and remove the version's files."""
        for instance in instances:
            self._scorers.stop(instance.key, grace=0.0)
        if version is not None:
            shutil.rmtree(version.folder, ignore_errors=True)

    def retire(self, instances: list[Instance], settings: Settings, version: Version | None = None) -> None:
        """Let instances finish what they have accepted, at the same time; returns when all have ended."""
        grace = settings["request_timeout_ms"] / 1000 + 5
        threads = [
            threading.Thread(target=self._scorers.stop, args=(instance.key, grace), daemon=True)
            for instance in instances
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if version is not None:
            shutil.rmtree(version.folder, ignore_errors=True)

    def taking(self, version: Version) -> tuple[Path, ...]:
        """The sockets of the instances that requests may go to now."""
        return tuple(one.socket for one in version.instances if self._scorers.taking(one.key))

    def _config(
        self,
        workspace: Workspace,
        name: str,
        settings: Settings,
        folder: Path,
        log: Path,
        given_up: Callable[[], bool],
    ) -> ScorerConfig:
        endpoint, _, deployment = name.partition("/")
        models = folder / "azureml-models"
        models.mkdir(parents=True, mode=0o700)
        model = models
        if settings.get("model_uri"):
            model = self._resolver.resolve(workspace, settings["model_uri"])
            models = models.joinpath(*settings.get("model", "model:1").rsplit(":", 1))
            found = version_files.link_model(model, models)
            container_logs.write(log, f"model {settings.get('model')} is read in place: {model} ({found})")
            container_logs.write(log, f"AZUREML_MODEL_DIR is {models}, in which it is {model.name}")
            for left in found.left_out[:20]:
                container_logs.write(log, f"left out, as it is a link that leads out of the model: {left}")
        code: Path | None = None
        if settings.get("code_uri"):
            code = folder / "code"
            source = codes.folder_of(self._folder, workspace, settings["code_uri"])
            copied = version_files.copy_code(source, code)
            container_logs.write(log, f"code is copied from {source} ({copied})")
        base = {"GOMP_SPINCOUNT": "1000", **clean_environment()}
        if self._base_url is not None and settings.get("identity", True):
            base.update(scorer_environment.identity(self._folder, self._base_url, workspace, base))
        more: dict[str, Any] = {}
        plan = self.plan(workspace, settings)
        if plan is not None and self._environments is not None:
            container_logs.write(log, *plan.lines)
            python = self._environments.prepare(plan, log, given_up)
            more["python"] = str(python)
            base["PATH"] = os.pathsep.join([*self._environments.folders(python), base.get("PATH", "")])
        container_logs.write(log, f"starts {settings['instances']} instance(s) of {name}")
        return ScorerConfig(
            kind=settings.get("kind", "mlflow"),
            model_dir=model,
            azureml_model_dir=models,
            endpoint=endpoint,
            deployment=deployment,
            trust_pickle=self._trust_pickle,
            log=self.home(workspace, name) / container_logs.INFERENCE_SERVER,
            code_dir=code,
            score_script=settings.get("score_script"),
            env=dict(settings.get("variables") or {}),
            # Idle OpenMP threads would spin beside the server and the other scorers and halve their speed.
            base_env=base,
            max_concurrent=int(settings["max_concurrent"]),
            liveness=ProbeSettings.from_json(settings.get("liveness")),
            readiness=ProbeSettings.from_json(settings.get("readiness")),
            **more,
        )

    def _of_model(self, workspace: Workspace, settings: Settings) -> Definition | None:
        """The environment that an MLflow model asks for by its conda.yaml."""
        if settings.get("model_type") != "mlflow_model" or settings.get("code_uri"):
            return None
        folder = self._resolver.resolve(workspace, settings["model_uri"])
        file = folder / "conda.yaml"
        if not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
            return None
        if file.stat().st_size > _LONGEST_CONDA or _is_ours(folder / "MLmodel"):
            return None
        name, _, version = str(settings["model"]).rpartition(":")
        try:
            text = file.read_text(encoding="utf-8")
            environment_pins.read(text)
        except (OSError, UnicodeDecodeError, environment_pins.CondaFileError):
            # MLflow itself does not need it to load a model.
            return None
        return Definition(f"models/{name}", version, {"condaFile": text})


def _is_ours(file: Path) -> bool:
    """Whether this package loads the model: no index has it, so no virtual environment can be made."""
    try:
        if file.stat().st_size > _LONGEST_CONDA:
            return False
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        loader = content["flavors"]["python_function"]["loader_module"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return False
    return str(loader).startswith("amlocal.")
