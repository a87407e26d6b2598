"""Which artifact addresses a workspace may name: everything below its own account's `azureml` container.

MLflow addresses artifacts as `mlflow-artifacts:/<account>/azureml/...`; the same path below the blob folder
holds the file, so that a run's MLflow artifacts are its run artifacts.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

CONTAINER = "azureml"
SCHEME = "mlflow-artifacts"
# Names the blob folder inside the MLflow process, see mlflow_artifacts.py.
BLOB_SCHEME = "amlocal-blobs"
MAX_PATH = 2048
MAX_SEGMENT = 255


class ArtifactPathError(ValueError):
    """An artifact path or address that the workspace may not name."""


def decode(path: str) -> str:
    """Percent-decode until nothing changes, as MLflow does before it opens a path."""
    while (decoded := unquote(path)) != path:
        path = decoded
    return path


def check_path(account: str, path: str, *, depth: int = 2) -> str:
    """Return the decoded path if it lies below `<account>/azureml` and has at least `depth` segments.

    Raises ArtifactPathError for anything else: other accounts, `..`, absolute paths, control characters,
    backslashes, names too long for a file system; in any percent-encoding.
    """
    decoded = decode(path)
    trimmed = decoded.removesuffix("/")
    segments = trimmed.split("/")
    if any(ord(letter) < 32 or letter in "\\\x7f\ufffd" for letter in decoded):
        raise ArtifactPathError("an artifact path has no control characters and no backslash")
    if any(segment in ("", ".", "..") for segment in segments):
        raise ArtifactPathError("an artifact path has no empty, '.' or '..' segment")
    if len(decoded) > MAX_PATH or any(len(segment.encode()) > MAX_SEGMENT for segment in segments):
        raise ArtifactPathError(
            f"an artifact path has at most {MAX_PATH} characters, {MAX_SEGMENT} per segment"
        )
    if segments[:2] != [account, CONTAINER]:
        raise ArtifactPathError(f"the artifacts of this workspace are below '{account}/{CONTAINER}/'")
    if len(segments) < depth:
        raise ArtifactPathError("the path names no artifact of a run, experiment or model")
    return trimmed


def resolve(blob_folder: Path, account: str, path: str, *, depth: int = 2) -> Path:
    """The file that a checked path names; raises ArtifactPathError if a link leads out of the container."""
    trimmed = check_path(account, path, depth=depth)
    root = (blob_folder / account / CONTAINER).resolve()
    try:
        real = (blob_folder / trimmed).resolve()
    except (OSError, RuntimeError) as error:  # pathlib's ways to tell of links in a circle
        raise ArtifactPathError("the path goes through links that lead in a circle") from error
    if not real.is_relative_to(root):
        raise ArtifactPathError("the path leads out of the workspace's artifacts through a link")
    return blob_folder / trimmed


def check_uri(account: str, uri: str) -> None:
    """Raise ArtifactPathError unless `uri` is an `mlflow-artifacts:/` address of the workspace's own."""
    try:
        parts = urlsplit(decode(uri))
    except ValueError as error:
        raise ArtifactPathError(f"not an address: {error}") from error
    if parts.scheme != SCHEME or parts.netloc or parts.query or parts.fragment:
        raise ArtifactPathError(f"an address of artifacts has the form {SCHEME}:/{account}/{CONTAINER}/...")
    check_path(account, parts.path.removeprefix("/"), depth=3)


def account_of(artifact_uri: str) -> str:
    """The account in an `mlflow-artifacts:/<account>/azureml/...` address; else ArtifactPathError."""
    account = urlsplit(artifact_uri).path.removeprefix("/").partition("/")[0]
    check_uri(account, artifact_uri)
    return account
