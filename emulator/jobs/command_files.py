"""The files of a command job: a private copy of its code, its inputs checked, places for its outputs."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from amlocal.compat.azureml_uri import AssetUri, UriError, clean_path, parse
from amlocal.compat.mltable_file import is_relative
from amlocal.emulator.http.errors import not_there_yet, user_error
from amlocal.emulator.jobs.command_request import InputSpec, OutputSpec
from amlocal.emulator.jobs.inputs import InputError, Resolver, output_uri
from amlocal.emulator.jobs.mirrors import Mirrors, is_web, plain
from amlocal.emulator.jobs.runners.base import Abandoned
from amlocal.emulator.store.workspace import Workspace

WORK = "wd"
INPUTS = "inputs"
TEMPORARY = "tmp"
# What a job leaves in these folders of its working folder are its default artifacts.
ARTIFACT_FOLDERS = ("outputs", "logs")
_MARKS = {"mltable": "MLTable", "mlflow_model": "MLmodel"}
_FOLDERS = ("uri_folder", "mltable", "mlflow_model", "triton_model")
_MOST_MLTABLE = 1024 * 1024


def input_source(
    resolver: Resolver, mirrors: Mirrors, workspace: Workspace, name: str, spec: InputSpec
) -> Path | str:
    """Where an input lies: a path, or the address of a file that has to be fetched.

    Raises AzureError 400 where it is not there or not of its type.
    """
    target = f"inputs.{name}"
    uri = _of_kind(workspace, name, spec)
    address = resolver.address(workspace, uri)
    if not is_web(address):
        return _checked(resolver.resolve(workspace, uri), uri, spec, target)
    if spec.mode == "mount":
        raise user_error(
            f"{target}: {plain(address)} cannot be mounted for writing (rw_mount); use ro_mount or download.",
            target=target,
        )
    found = mirrors.find(address, target)
    if found is not None:
        return _checked(found, plain(address), spec, target)
    if spec.kind in _FOLDERS and spec.mode != "direct":
        raise user_error(
            f"{target}: the type {spec.kind} is a folder, and a folder cannot be fetched from a web address. "
            f"Set a mirror for {plain(address)} (the setting mirrors: URL prefix to folder).",
            target=target,
        )
    return address


def _of_kind(workspace: Workspace, name: str, spec: InputSpec) -> str:
    """The reference of an input, with the kind of asset that its type says."""
    uri = spec.uri
    if spec.kind == "triton_model":
        # azure-ai-ml takes the name of a Triton model for that of a data asset.
        uri = uri.replace(f"{workspace.arm_id}/data/", f"{workspace.arm_id}/models/", 1)
    if not spec.kind.endswith("_model") or not uri.lower().startswith("azureml:") or "//" in uri[:10]:
        return uri
    # The short form says no kind; for a model it is one of the models.
    try:
        parsed = parse(uri)
    except UriError as error:
        raise InputError(f"inputs.{name}: {error}") from error
    if not isinstance(parsed, AssetUri):
        return uri
    which = f"labels/{parsed.label}" if parsed.label else f"versions/{parsed.version}"
    return f"{workspace.arm_id}/models/{parsed.name}/{which}"


def _checked(path: Path, uri: str, spec: InputSpec, target: str) -> Path:
    """`path` once it is there and of its type."""
    if not path.exists():
        raise user_error(f"{target}: there is nothing at {uri}.", target=target)
    if spec.kind == "uri_file" and not path.is_file():
        raise user_error(f"{target}: {uri} is a folder; use the type uri_folder.", target=target)
    if spec.kind in _FOLDERS and not path.is_dir():
        raise user_error(f"{target}: {uri} is a file; {spec.kind} needs a folder.", target=target)
    mark = _MARKS.get(spec.kind)
    if mark is not None and not (path / mark).is_file():
        raise user_error(f"{target}: {uri} holds no file named {mark}.", target=target)
    if spec.mode == "evaluate" and spec.kind == "mltable":
        return _evaluated(path, target)
    return path


def _evaluated(folder: Path, target: str) -> Path:
    """What the MLTable in `folder` stands for as files: its one relative path.

    Raises AzureError 501 for one whose evaluation is more than naming a path.
    """
    import yaml

    try:
        with (folder / "MLTable").open("rb") as file:
            content = yaml.safe_load(file.read(_MOST_MLTABLE))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise user_error(
            f"{target}: its file MLTable is not YAML: {str(error)[:300]}.", target=target
        ) from error
    body = content if isinstance(content, dict) else {}
    paths = body.get("paths")
    entry = paths[0] if isinstance(paths, list) and len(paths) == 1 else None
    kind, value = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else ("", None)
    if body.get("transformations") or kind not in ("file", "folder") or not isinstance(value, str):
        raise not_there_yet(
            "Evaluating an MLTable that is more than the path of one file or folder (eval_mount, "
            f"eval_download of {target})"
        )
    if not is_relative(value):
        raise not_there_yet(
            f"Evaluating an MLTable with a path outside of its folder (eval_mount, eval_download of {target})"
        )
    try:
        inside = clean_path(value)
    except UriError as error:
        raise user_error(f"{target}: its MLTable's path {error.reason}", target=target) from error
    found = folder / inside
    if not (found.is_file() if kind == "file" else found.is_dir()):
        raise user_error(
            f"{target}: its MLTable names the {kind} {value}, which is not there.", target=target
        )
    real, root = os.path.realpath(found), os.path.realpath(folder)
    if real != root and not real.startswith(root + os.sep):
        raise user_error(f"{target}: its MLTable's path {value} leaves its folder.", target=target)
    return found


def output_path(resolver: Resolver, workspace: Workspace, job: str, name: str, spec: OutputSpec) -> Path:
    """Where the job writes an output. Raises AzureError 400 for a place that is none of ours."""
    return resolver.resolve(workspace, output_uri(job, name, spec.body), writing=True)


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
