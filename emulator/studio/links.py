"""Links to the studio's pages. They carry a token, because a browser has no bearer token to send."""

from __future__ import annotations

from urllib.parse import urlencode

from amlocal.emulator.services import Services
from amlocal.emulator.store.workspace import Workspace


def run_link(services: Services, workspace: Workspace, run_id: str) -> str:
    """The page of one run; valid for seven days, for this workspace only."""
    query = urlencode({"wsid": workspace.arm_id, "t": services.auth.view_token(workspace)}, safe="/")
    return f"{services.settings.base_url}/studio/runs/{run_id}?{query}"
