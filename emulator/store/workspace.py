"""The identity of a workspace inside the server: its own id, the user's names for it, its storage account."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from amlocal.emulator.store.tables import workspaces

PROVIDER = "Microsoft.MachineLearningServices"


@dataclass(frozen=True, slots=True)
class Workspace:
    """One workspace. `id` is a guid, `account` the name of its storage account and of its folder of blobs."""

    id: str
    subscription: str
    resource_group: str
    name: str
    account: str

    @property
    def arm_id(self) -> str:
        """The ARM id, in the spelling in which Azure Machine Learning writes it."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}"
            f"/providers/{PROVIDER}/workspaces/{self.name}"
        )

    @property
    def key(self) -> str:
        """The lower-cased triple: ARM compares these names without regard to case."""
        return f"{self.subscription}/{self.resource_group}/{self.name}".lower()


def by_id(connection: Connection, workspace_id: str) -> Workspace:
    """The workspace of a stored record. Raises LookupError when there is none."""
    row = connection.execute(select(workspaces).where(workspaces.c.id == workspace_id)).one_or_none()
    if row is None:
        raise LookupError(f"There is no workspace with the id {workspace_id}.")
    return Workspace(row.id, row.subscription, row.resource_group, row.name, row.account)
