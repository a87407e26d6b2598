"""The files of a command job: a private copy of its code, its inputs checked, places for its outputs."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from amlocal.compat.azureml_uri import AssetUri, UriError, parse
from amlocal.emulator.http.errors import user_error
from amlocal.emulator.jobs.command_request import InputSpec, OutputSpec
from amlocal.emulator.jobs.inputs import InputError, Resolver, output_uri
from amlocal.emulator.jobs.runners.base import Abandoned
from amlocal.emulator.store.workspace import Workspace

WORK = "wd"
INPUTS = "inputs"
TEMPORARY = "tmp"
# What a job leaves in these folders of its working folder are its default artifacts.
ARTIFACT_FOLDERS = ("outputs", "logs")
_MARKS = {"mltable": "MLTable", "mlflow_model": "MLmodel"}


def input_path(resolver: Resolver, workspace: Workspace, name: str, spec: InputSpec) -> Path:
    """Where an input lies. Raises AzureError 400 where it is not there or not of its type."""
    uri = spec.uri
    if spec.kind.endswith("_model") and uri.lower().startswith("azureml:") and "//" not in uri[:10]:
        # The short form says no kind; for a model it is one of the models.
        try:
            parsed = parse(uri)
        except UriError as error:
            raise InputError(f"inputs.{name}: {error}") from error
        if isinstance(parsed, AssetUri):
            which = f"labels/{parsed.label}" if parsed.label else f"versions/{parsed.version}"
            uri = f"{workspace.arm_id}/models/{parsed.name}/{which}"
    path = resolver.resolve(workspace, uri)
    target = f"inputs.{name}"
    if not path.exists():
        raise user_error(f"{target}: there is nothing at {uri}.", target=target)
    if spec.kind == "uri_file" and not path.is_file():
        raise user_error(f"{target}: {uri} is a folder; use the type uri_folder.", target=target)
    if spec.kind in ("uri_folder", "mltable", "mlflow_model") and not path.is_dir():
        raise user_error(f"{target}: {uri} is a file; {spec.kind} needs a folder.", target=target)
    mark = _MARKS.get(spec.kind)
    if mark is not None and not (path / mark).is_file():
        raise user_error(f"{target}: {uri} holds no file named {mark}.", target=target)
    return path


def output_path(resolver: Resolver, workspace: Workspace, job: str, name: str, spec: OutputSpec) -> Path:
    """Where the job writes an output. Raises AzureError 400 for a place that is none of ours."""
    return resolver.resolve(workspace, output_uri(job, name, spec.body))


def make_output(path: Path, spec: OutputSpec) -> None:
    """The folder in which the job writes an output."""
    folder = path.parent if spec.kind == "uri_file" else path
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def copy(source: Path, target: Path, abandoned: Callable[[], bool]) -> None:
    """A private copy of a file or of a folder's regular files. Links and special files are left out."""
    if not source.is_dir():
        _copy_file(source, target)
        return
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    for directory, folders, names in os.walk(source, followlinks=False):
        if abandoned():
            raise Abandoned
        here = target / Path(directory).relative_to(source)
        folders[:] = [name for name in folders if not (Path(directory) / name).is_symlink()]
        for name in folders:
            (here / name).mkdir(exist_ok=True, mode=0o700)
        for name in names:
            _copy_file(Path(directory) / name, here / name)


def make_work(code: Path | None, job_dir: Path, artifacts: Path, abandoned: Callable[[], bool]) -> Path:
    """A fresh working folder with a copy of the code; its artifact folders are those of the run itself.

    So a job's artifacts are there while it runs, and stay however it ends.
    """
    work = job_dir / WORK
    for folder in (work, job_dir / INPUTS, job_dir / TEMPORARY):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
    if code is not None:
        copy(code, work / code.name if code.is_file() else work, abandoned)
    for name in ARTIFACT_FOLDERS:
        kept = artifacts / name
        kept.mkdir(parents=True, exist_ok=True, mode=0o700)
        own = work / name
        if own.is_dir():
            copy(own, kept, abandoned)
            shutil.rmtree(own)
        if not own.exists():
            own.symlink_to(kept, target_is_directory=True)
    return work


def collect(job_dir: Path, artifacts: Path) -> None:
    """After the end: artifacts in folders that the job made anew, and nothing left of its private copies."""
    for name in ARTIFACT_FOLDERS:
        own = job_dir / WORK / name
        if own.is_dir() and not own.is_symlink():
            copy(own, artifacts / name, lambda: False)
    for folder in (WORK, INPUTS, TEMPORARY):
        shutil.rmtree(job_dir / folder, ignore_errors=True)


def _copy_file(source: Path, target: Path) -> None:
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        if source.is_symlink():
            return
        raise
    with os.fdopen(descriptor, "rb") as reader:
        if not stat.S_ISREG(os.fstat(reader.fileno()).st_mode):
            return
        target.unlink(missing_ok=True)
        with target.open("xb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
    target.chmod(0o700)
