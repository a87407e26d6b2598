"""Command jobs: a user's own command in a private copy of its code, started once and never again."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amlocal.emulator.arm import codes, documents, environments
from amlocal.emulator.http.errors import user_error
from amlocal.emulator.jobs import command_files, command_line, computes, fields, user_log
from amlocal.emulator.jobs.command_request import CommandJob, read
from amlocal.emulator.jobs.engines.base import EngineJob
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.jobs.inputs import Resolver
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners import environment
from amlocal.emulator.jobs.runners.base import JobFailure, NewRun, Patch, Submission
from amlocal.emulator.settings import Settings
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder, write_atomic
from amlocal.emulator.store.workspace import Workspace, by_id

# The program that a command is written for, as on Azure; the whole text is one argument of it.
SHELL = ("/bin/bash", "-c")
PLAN = "command.json"
_GRACE = 10.0
# The longest single argument that Linux accepts (MAX_ARG_STRLEN).
_MOST_ARGUMENT = 128 * 1024


@dataclass(frozen=True)
class _Places:
    """Where the inputs are and the outputs belong, as the command sees them."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class CommandRunner:
    """See `base.Runner`. The job is its own leaf. `python` is what `python` means in a command."""

    kind = "command"
    # A user's command may have done anything before it was killed, so it is never started twice.
    attempts = 1

    def __init__(
        self,
        *,
        store: Store,
        folder: DataFolder,
        settings: Settings,
        resolver: Resolver,
        issue_job_token: Callable[[Workspace, str], str],
        python: str = sys.executable,
    ) -> None:
        self._store = store
        self._folder = folder
        self._settings = settings
        self._resolver = resolver
        self._issue_job_token = issue_job_token
        self._bin = Path(python).parent

    def check(self, workspace: Workspace, name: str, properties: Mapping[str, Any]) -> Submission:
        """Everything that can be checked in about a second. Raises AzureError."""
        tags, given = fields.texts(properties, "tags"), fields.texts(properties, "properties")
        experiment = fields.text(properties, "experimentName", "experimentName", limit=255) or "Default"
        display_name = fields.text(properties, "displayName", "displayName", limit=255) or name
        compute_id = fields.text(properties, "computeId", "computeId")
        compute = self._store.read(lambda c: computes.resolve(c, workspace, compute_id))
        job = read(properties)
        resolved = environments.resolve(self._store, workspace, job.environment)
        self._code(workspace, job)
        for key, spec in job.inputs.items():
            if spec.uri:
                command_files.input_path(self._resolver, workspace, key, spec)
        for key, output in job.outputs.items():
            command_files.output_path(self._resolver, workspace, name, key, output)
        return Submission(
            kind=self.kind,
            experiment=experiment,
            display_name=display_name,
            compute=compute,
            tags=tags,
            properties={**given, "azureml.runtimeEnvironment": resolved},
        )

    def reserved(self, name: str) -> Sequence[str]:
        return ()

    def prepare(
        self, workspace: Workspace, root: JobRecord, abandoned: Callable[[], bool]
    ) -> Sequence[NewRun]:
        """The copy of the code, the places of inputs and outputs, and the head of the log."""
        job = read(root.body)
        job_dir = self._folder.job(workspace.id, root.name)
        artifacts = self._folder.artifacts(workspace.account, root.name)
        for folder in (job_dir, artifacts / user_log.USER_LOG.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        command_files.make_work(self._code(workspace, job), job_dir, artifacts, abandoned)
        places = self._places(workspace, root, job, job_dir, abandoned)
        plan = {"inputs": places.inputs, "outputs": places.outputs}
        write_atomic(job_dir / PLAN, json.dumps(plan).encode())
        user_log.start(
            artifacts / user_log.USER_LOG,
            [
                f"job {root.name} on {root.compute}",
                f"environment {root.properties.get('azureml.runtimeEnvironment', job.environment)} runs in "
                f"this installation's Python {sys.version.split()[0]}",
            ],
        )
        return []

    def launch(self, workspace: Workspace, root: JobRecord, leaf: JobRecord) -> EngineJob:
        """The order to run the command. Raises JobFailure where the prepared files are gone."""
        job = read(root.body)
        job_dir = self._folder.job(workspace.id, root.name)
        work = job_dir / command_files.WORK
        try:
            plan = json.loads((job_dir / PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise JobFailure(
                f"The files of {leaf.name} in {job_dir} are gone: {error}.", "SystemError"
            ) from error
        command = command_line.fill(job.command, plan["inputs"], plan["outputs"])
        if len(command.encode()) >= _MOST_ARGUMENT:
            raise JobFailure(
                f"With its inputs filled in the command has {len(command.encode())} bytes; "
                f"{_MOST_ARGUMENT - 1} are possible. Hand long values over in a file."
            )
        return EngineJob(
            job_dir=job_dir,
            argv=[*SHELL, command],
            env=self._environment(workspace, root, leaf, job, plan),
            cwd=work,
            stdout=self._log(workspace, leaf),
            attempt=leaf.attempt,
            grace=_GRACE,
        )

    def timeout(self, root: JobRecord) -> float | None:
        return read(root.body).timeout

    def note(self, workspace: Workspace, leaf: JobRecord, line: str) -> None:
        user_log.append(self._log(workspace, leaf), line)

    def last_lines(self, workspace: Workspace, leaf: JobRecord) -> str:
        return user_log.last_lines(self._log(workspace, leaf))

    def outcome(self, tree: Sequence[JobRecord], leaf: JobRecord) -> Mapping[str, Patch]:
        workspace = self._store.read(lambda c: by_id(c, leaf.workspace_id))
        artifacts = self._folder.artifacts(workspace.account, leaf.name)
        command_files.collect(self._folder.job(workspace.id, leaf.name), artifacts)
        return {}

    def _log(self, workspace: Workspace, leaf: JobRecord) -> Path:
        return self._folder.artifacts(workspace.account, leaf.name) / user_log.USER_LOG

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

    def _places(
        self,
        workspace: Workspace,
        root: JobRecord,
        job: CommandJob,
        job_dir: Path,
        abandoned: Callable[[], bool],
    ) -> _Places:
        inputs: dict[str, str] = {}
        for name, spec in job.inputs.items():
            if not spec.uri:
                inputs[name] = spec.value
                continue
            path = command_files.input_path(self._resolver, workspace, name, spec)
            if spec.mode == "direct":
                inputs[name] = spec.uri
            elif spec.mode == "download":
                target = job_dir / command_files.INPUTS / name
                if path.is_file():
                    target.mkdir(mode=0o700)
                    target = target / path.name
                command_files.copy(path, target, abandoned)
                inputs[name] = str(target)
            else:
                inputs[name] = str(path)
        outputs: dict[str, str] = {}
        for name, output in job.outputs.items():
            place = command_files.output_path(self._resolver, workspace, root.name, name, output)
            command_files.make_output(place, output)
            outputs[name] = str(place)
        return _Places(inputs, outputs)

    def _environment(
        self,
        workspace: Workspace,
        root: JobRecord,
        leaf: JobRecord,
        job: CommandJob,
        plan: Mapping[str, Mapping[str, str]],
    ) -> dict[str, str]:
        token = self._issue_job_token(workspace, leaf.name)
        base = environment.of_trial(
            self._settings, self._folder, workspace, root, leaf, token, threads=os.cpu_count() or 1
        )
        # What is longer than an argument can be would keep the command from being started at all.
        named = {
            f"AZURE_ML_{kind}_{name}": value
            for kind, values in (("INPUT", plan["inputs"]), ("OUTPUT", plan["outputs"]))
            for name, value in values.items()
            if len(value.encode()) < _MOST_ARGUMENT // 2
        }
        return {
            **base,
            "PATH": f"{self._bin}{os.pathsep}{base.get('PATH', os.defpath)}",
            "TMPDIR": str(self._folder.job(workspace.id, root.name) / command_files.TEMPORARY),
            "AZUREML_ARM_PROJECT_NAME": leaf.experiment,
            "AZUREML_WORKSPACE_ID": workspace.id,
            "AZUREML_WORKSPACE_SCOPE": workspace.arm_id,
            "AZUREML_SERVICE_ENDPOINT": self._settings.base_url,
            "AZUREML_RUN_TOKEN": token,
            **named,
            **job.variables,
        }
