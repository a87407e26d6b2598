"""What scorers find in their environment: an identity at the server, a share of the processors."""

from __future__ import annotations

from pathlib import Path

import pytest

from amlocal.emulator.endpoints import scorer_environment
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace

OMP, OWN = scorer_environment.THREADS


@pytest.mark.parametrize(
    ("cpus", "instances", "environments", "wanted"),
    [
        (8, 1, ({}, {}), None),
        (8, 2, ({}, {}), "4"),
        (8, 3, ({"OTHER": "1"}, {"PATH": "/bin"}), "2"),
        (2, 5, ({}, {}), "1"),
        (8, 2, ({OMP: "8"}, {}), None),
        (8, 2, ({OWN: "3"}, {}), None),
        (8, 2, ({}, {OMP: "2"}), None),
    ],
)
def test_instances_share_the_processors(
    cpus: int, instances: int, environments: tuple[dict[str, str], ...], wanted: str | None
) -> None:
    found = scorer_environment.threads(cpus, instances, *environments)
    assert found == ({} if wanted is None else {OMP: wanted, OWN: wanted})


def test_an_identity_names_its_server_and_workspace(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.create()
    workspace = Workspace("w", "s-1", "team", "vision", "account")
    found = scorer_environment.identity(
        folder, "https://localhost:4265", workspace, {"NO_PROXY": "intranet", "PATH": "/bin"}
    )
    secret = (tmp_path / "secrets" / "identity_header").read_text()
    assert len(secret) > 30 and found["IDENTITY_HEADER"] == found["MSI_SECRET"] == secret
    assert found["IDENTITY_ENDPOINT"] == found["MSI_ENDPOINT"] == "https://localhost:4265/msi/token"
    names = ("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME")
    assert [found[name] for name in names] == ["s-1", "team", "vision"]
    assert found["REQUESTS_CA_BUNDLE"] == str(tmp_path / "tls" / "bundle.pem")
    assert found["NO_PROXY"].startswith("intranet,localhost") and "PATH" not in found
    # The person's own token stays with the person.
    assert "MLFLOW_TRACKING_TOKEN" not in found
