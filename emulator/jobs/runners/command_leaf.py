"""A user's command, as a job of its own or as a sweep's trial: its files, its order, what it leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amlocal.emulator.arm import codes, documents
from amlocal.emulator.http.errors import AzureError, user_error
from amlocal.emulator.jobs import (
    command_files,
    command_line,
    computes,
    distribution,
    environments,
    fields,
    job_services,
    outputs,
    user_log,
)
from amlocal.emulator.jobs.command_request import ARTIFACTS, CommandJob, InputSpec
from amlocal.emulator.jobs.engines.base import EngineJob
from amlocal.emulator.jobs.environments import JobEnvironments
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.jobs.inputs import Resolver, output_uri
from amlocal.emulator.jobs.mirrors import Mirrors
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners import environment
from amlocal.emulator.jobs.runners.base import JobFailure, Submission
from amlocal.emulator.settings import Settings
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder, write_atomic
from amlocal.emulator.store.workspace import Workspace

# The program that a command is written for, as on Azure; the whole text is one argument of it.
SHELL = ("/bin/bash", "-c")
PLAN = "command.json"
# Source: the documentation of azure-ai-ml's SweepJob.
_SWEEP = "AZUREML_SWEEP"
_GRACE = 10.0
_PYTHONS = range(9, 16)
# The longest single argument that Linux accepts (MAX_ARG_STRLEN).
_MOST_ARGUMENT = 128 * 1024


@dataclass(frozen=True)
class Places:
    """Where the inputs are and the outputs belong, as the command sees them."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class CommandLeaf:
    """Safe from any thread. `gpus`: how many this host has."""

    def __init__(
        self,
        *,
        store: Store,
        folder: DataFolder,
        settings: Settings,
        resolver: Resolver,
        issue_job_token: Callable[[Workspace, str], str],
        environments: JobEnvironments,
        gpus: int = 0,
    ) -> None:
        self._store = store
        self._folder = folder
        self._settings = settings
        self._resolver = resolver
        self._mirrors = Mirrors.of(settings)
        self._issue_job_token = issue_job_token
        self._environments = environments
        self._gpus = gpus

    def check(
        self, workspace: Workspace, name: str, kind: str, properties: Mapping[str, Any], job: CommandJob
    ) -> Submission:
        """What can be checked in about a second of the job `name` that runs `job`. Raises AzureError."""
        tags, given = fields.texts(properties, "tags"), fields.texts(properties, "properties")
        experiment = fields.text(properties, "experimentName", "experimentName", limit=255) or "Default"
        display_name = fields.text(properties, "displayName", "displayName", limit=255) or name
        compute_id = fields.text(properties, "computeId", "computeId")
        compute = self._store.read(lambda c: computes.resolve(c, workspace, compute_id))
        self._store.read(lambda c: computes.check(c, workspace, compute, job.distribution.instances))
        if job.distribution.kind == "mpi" and self._mpirun(job) is None:
            raise user_error(
                f"distribution.type is mpi and this host has no {distribution.MPIRUN} on its PATH. Install "
                "Open MPI and start amlocal again, or use pytorch.",
                target="distribution.distributionType",
            )
        told = self._environments.check(workspace, job.environment)
        if job.distribution.kind == "pytorch":
            self._environments.check_package(
                workspace, job.environment, "torch", "distribution.type is pytorch"
            )
        self._code(workspace, job)
        for key, spec in job.inputs.items():
            if spec.uri:
                command_files.input_source(self._resolver, self._mirrors, workspace, key, spec)
        for key, output in job.outputs.items():
            command_files.output_path(self._resolver, workspace, name, key, output)
        outputs.check(self._store, workspace, job.outputs)
        return Submission(
            kind=kind,
            experiment=experiment,
            display_name=display_name,
            compute=compute,
            tags={**tags, **self._device(workspace, compute)},
            properties=environments.merged(given, told),
        )

    def furnish(
        self,
        workspace: Workspace,
        leaf: JobRecord,
        job: CommandJob,
        abandoned: Callable[[], bool],
        fetched: Mapping[str, Path] | None = None,
    ) -> Places:
        """A private copy of the code, and the places of inputs and outputs.

        `fetched` are inputs from the web that were fetched before. Raises AzureError, JobFailure, Abandoned.
        """
        job_dir = self._folder.job(workspace.id, leaf.name)
        artifacts = self._folder.artifacts(workspace.account, leaf.name)
        for folder in (job_dir, artifacts / user_log.USER_LOG.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        command_files.make_work(self._code(workspace, job), job_dir, artifacts, abandoned)
        inputs = {
            name: self._input(workspace, name, spec, job_dir, abandoned, (fetched or {}).get(name))
            for name, spec in job.inputs.items()
        }
        written: dict[str, str] = {}
        for name, output in job.outputs.items():
            place = command_files.output_path(self._resolver, workspace, leaf.name, name, output)
            command_files.make_output(place, output)
            direct = output.mode == "direct"
            written[name] = output_uri(leaf.name, name, output.body) if direct else str(place)
        return Places(inputs, written)

    def fetch(
        self, workspace: Workspace, job: CommandJob, folder: Path, abandoned: Callable[[], bool]
    ) -> dict[str, Path]:
        """The inputs that come from the web, each in a folder of its own. Raises JobFailure, Abandoned."""
        found = {}
        for name, spec in job.inputs.items():
            if not spec.uri or spec.mode == "direct":
                continue
            source = command_files.input_source(self._resolver, self._mirrors, workspace, name, spec)
            if isinstance(source, str):
                found[name] = self._mirrors.fetch(source, folder / name, abandoned)
        return found

    def begin_log(
        self, workspace: Workspace, leaf: JobRecord, job: CommandJob, more: Sequence[str] = ()
    ) -> environments.Plan:
        """The head of the leaf's log; how its environment is met. Raises AzureError."""
        met = self._environments.plan(workspace, job.environment, leaf.properties.get(environments.RESOLVED))
        user_log.start(
            self.log(workspace, leaf),
            [
                f"job {leaf.name} on {leaf.compute}",
                *more,
                *([leaf.tags[computes.DEVICE]] if computes.DEVICE in leaf.tags else []),
                *met.lines,
                *distribution.notes(job.distribution),
                *job_services.notes(leaf.body),
            ],
        )
        return met

    def keep(self, workspace: Workspace, leaf: JobRecord, places: Places, python: str) -> None:
        """Store where everything is, for `order`."""
        plan = {"inputs": places.inputs, "outputs": places.outputs, "python": python}
        write_atomic(self._folder.job(workspace.id, leaf.name) / PLAN, json.dumps(plan).encode())

    def order(self, workspace: Workspace, root: JobRecord, leaf: JobRecord, job: CommandJob) -> EngineJob:
        """The order to run the command. Raises JobFailure where the prepared files are gone."""
        job_dir = self._folder.job(workspace.id, leaf.name)
        work = job_dir / command_files.WORK
        try:
            plan = json.loads((job_dir / PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise JobFailure(
                f"The files of {leaf.name} in {job_dir} are gone: {error}.", "SystemError"
            ) from error
        command = command_line.fill(job.command, plan["inputs"], plan["outputs"], job.parameters)
        if len(command.encode()) >= _MOST_ARGUMENT:
            raise JobFailure(
                f"With its inputs filled in the command has {len(command.encode())} bytes; "
                f"{_MOST_ARGUMENT - 1} are possible. Hand long values over in a file."
            )
        argv = [*SHELL, command]
        log = self.log(workspace, leaf)
        if job.distribution.kind != "none":
            order = distribution.order(
                job.distribution, argv, log.parent, python=plan["python"], mpirun=self._mpirun(job)
            )
            write_atomic(job_dir / distribution.ORDER, order, mode=0o600)
            argv = distribution.argv(job_dir)
        return EngineJob(
            job_dir=job_dir,
            argv=argv,
            env=self._environment(workspace, root, leaf, job, plan),
            cwd=work,
            stdout=log,
            attempt=leaf.attempt,
            grace=_GRACE,
        )

    def tidy(self, workspace: Workspace, leaf: JobRecord) -> None:
        """After the end: the artifacts are kept, the private copies are not."""
        artifacts = self._folder.artifacts(workspace.account, leaf.name)
        command_files.collect(self._folder.job(workspace.id, leaf.name), artifacts)

    def collect(self, workspace: Workspace, leaf: JobRecord, job: CommandJob) -> dict[str, dict[str, Any]]:
        """After an end that is well: as `tidy`, and as `registrable`. Raises JobFailure."""
        self.tidy(workspace, leaf)
        places = self._output_places(workspace, leaf, job)
        if ARTIFACTS in places and job.outputs[ARTIFACTS].body.get("uri"):
            artifacts = self._folder.artifacts(workspace.account, leaf.name)
            command_files.copy(artifacts, places[ARTIFACTS], lambda: False)
        return outputs.contents(places, job.outputs)

    def registrable(
        self, workspace: Workspace, leaf: JobRecord, job: CommandJob
    ) -> dict[str, dict[str, Any]]:
        """The outputs that are to become assets, with what is to be stored. Raises JobFailure."""
        return outputs.contents(self._output_places(workspace, leaf, job), job.outputs)

    def log(self, workspace: Workspace, leaf: JobRecord) -> Path:
        """The log that a user reads."""
        return self._folder.artifacts(workspace.account, leaf.name) / user_log.USER_LOG

    def _output_places(self, workspace: Workspace, leaf: JobRecord, job: CommandJob) -> dict[str, Path]:
        try:
            return {
                name: command_files.output_path(self._resolver, workspace, leaf.name, name, output)
                for name, output in job.outputs.items()
            }
        except AzureError as error:
            raise JobFailure(error.message) from error

    def _device(self, workspace: Workspace, compute: str) -> dict[str, str]:
        """What a user should know who asked for a GPU on a host without one."""
        limit = self._store.read(lambda c: computes.limits(c, [(workspace.id, compute)]))
        if not limit[workspace.id, compute].gpu or self._gpus:
            return {}
        return {computes.DEVICE: f"CPU: this host has no GPU, so {compute} runs on its processors"}

    def _mpirun(self, job: CommandJob) -> str | None:
        return distribution.find_mpirun(job.variables.get("PATH") or os.environ.get("PATH") or os.defpath)

    def _code(self, workspace: Workspace, job: CommandJob) -> Path | None:
        """The folder of the job's code; None for a job without. Raises AzureError 400."""
        if job.code is None:
            return None
        prefix = f"{workspace.arm_id}/codes/".lower()
        name, _, version = job.code[len(prefix) :].partition("/versions/")
        if not job.code.lower().startswith(prefix) or not name or not version:
            raise user_error(
                f"codeId {shown(job.code)} is not a code asset of workspace {workspace.name}. "
                "Give `code` as a local folder.",
                target="codeId",
            )
        found = self._store.read(lambda c: documents.get(c, workspace.id, "codes", name, version))
        if found is None:
            raise user_error(
                f"codeId {shown(job.code)}: workspace {workspace.name} has no such code asset.",
                target="codeId",
            )
        path = codes.folder_of(self._folder, workspace, str(found.properties.get("codeUri")))
        if not path.exists():
            raise user_error(f"codeId {shown(job.code)}: its files are gone.", target="codeId")
        return path

    def _input(
        self,
        workspace: Workspace,
        name: str,
        spec: InputSpec,
        job_dir: Path,
        abandoned: Callable[[], bool],
        fetched: Path | None,
    ) -> str:
        """What the command is told of an input, once that is there."""
        if not spec.uri:
            return spec.value
        if spec.mode == "direct":
            return spec.uri
        source: Path | str | None = fetched
        if source is None:
            source = command_files.input_source(self._resolver, self._mirrors, workspace, name, spec)
        target = job_dir / command_files.INPUTS / name
        if isinstance(source, str):
            return str(self._mirrors.fetch(source, target, abandoned))
        if spec.mode == "mount":
            return str(source)
        if source.is_file():
            target.mkdir(mode=0o700)
            target = target / source.name
        command_files.copy(source, target, abandoned)
        return str(target)

    def _environment(
        self,
        workspace: Workspace,
        root: JobRecord,
        leaf: JobRecord,
        job: CommandJob,
        plan: Mapping[str, Any],
    ) -> dict[str, str]:
        token = self._issue_job_token(workspace, leaf.name)
        threads = max(1, (os.cpu_count() or 1) // job.distribution.total)
        base = environment.of_trial(
            self._settings, self._folder, workspace, root, leaf, token, threads=threads
        )
        temporary = self._folder.job(workspace.id, leaf.name) / command_files.TEMPORARY
        folders = self._environments.folders(Path(plan["python"]))
        told = [("AZURE_ML_INPUT", plan["inputs"]), ("AZURE_ML_OUTPUT", plan["outputs"])]
        if job.parameters:
            told += [(_SWEEP, values) for values in (plan["inputs"], plan["outputs"], job.parameters)]
        # What is longer than an argument can be would keep the command from being started at all.
        named = {
            f"{prefix}_{name}": value
            for prefix, values in told
            for name, value in values.items()
            if len(value.encode()) < _MOST_ARGUMENT // 2
        }
        return {
            **base,
            "TMPDIR": str(temporary),
            **_own_packages(temporary / "packages", *folders, base.get("PATH", os.defpath)),
            "AZUREML_ARM_PROJECT_NAME": leaf.experiment,
            "AZUREML_WORKSPACE_ID": workspace.id,
            "AZUREML_WORKSPACE_SCOPE": workspace.arm_id,
            "AZUREML_SERVICE_ENDPOINT": self._settings.base_url,
            "AZUREML_RUN_TOKEN": token,
            "AZUREML_NODE_COUNT": str(job.distribution.instances),
            **named,
            **job.variables,
        }


def _own_packages(folder: Path, *path: str) -> dict[str, str]:
    """What makes `pip install` in a command install for that job alone, not into the Python that it runs in.

    Source of the variables: pip's user guide, "Environment Variables".
    """
    # Only the folder of the Python that runs will be there; which one that is, the command decides.
    found = [folder / "lib" / f"python3.{minor}" / "site-packages" for minor in _PYTHONS]
    return {
        "PIP_PREFIX": str(folder),
        "PIP_IGNORE_INSTALLED": "1",
        "PYTHONPATH": os.pathsep.join(map(str, found)),
        "PATH": os.pathsep.join([str(folder / "bin"), *path]),
    }
