"""`amlocal env`: the environment that points an unmodified client at the server."""

from __future__ import annotations

import argparse
import os
import sys

from amlocal.compat import cloud, environment
from amlocal.emulator import secrets
from amlocal.emulator import settings as settings_module
from amlocal.emulator.cli import CommandError, add_data_dir, instance
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspaces import parse_triple

_MLFLOW_LIFETIME = 30 * 24 * 3600


def configure(parser: argparse.ArgumentParser) -> None:
    add_data_dir(parser)
    parser.add_argument("--format", choices=sorted(environment.FORMATS), default="sh")
    parser.add_argument(
        "--workspace", metavar="SUB/GROUP/NAME", help="the workspace to name in the environment"
    )


def main(options: argparse.Namespace) -> int:
    folder = DataFolder(settings_module.load({"data_dir": options.data_dir}).data_dir)
    running = instance.read(folder)
    if running is None:
        raise CommandError(
            f"no server was ever started on {folder.root}. Start one with: amlocal serve --detach"
        )
    if not instance.is_running(folder):
        print("amlocal: the server does not run now; start it with: amlocal serve --detach", file=sys.stderr)
    target = target_of(folder, running, options.workspace)
    print(environment.FORMATS[options.format](environment.variables(target, os.environ)))
    return 0


def target_of(folder: DataFolder, running: instance.Instance, workspace: str | None) -> environment.Target:
    """The server and workspace as a client needs them."""
    default = (cloud.SUBSCRIPTION_ID, cloud.RESOURCE_GROUP, cloud.WORKSPACE)
    subscription, group, name = parse_triple(workspace) if workspace else default
    return environment.Target(
        base_url=running.base_url,
        bundle=folder.tls / "bundle.pem",
        identity_header=secrets.identity_header(folder),
        mlflow_token=user_token(folder, running.base_url, _MLFLOW_LIFETIME),
        subscription=subscription,
        resource_group=group,
        workspace=name,
    )


def user_token(folder: DataFolder, base_url: str, lifetime: float = 3600) -> str:
    """A bearer token of the user who may read the data folder's secrets."""
    return secrets.token_issuer(folder).issue(
        base_url, lifetime=lifetime, tid=cloud.TENANT_ID, oid=cloud.TENANT_ID, sub="local-user"
    )
