"""What the declared resources answer, as a table made from their declarations; and the parity page with it.

`python -m amlocal.emulator.arm.coverage FILE` writes the page.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from amlocal.compat import parity
from amlocal.emulator.arm.resource import Resource

_TITLE = """# What works

Made from `compat/parity.toml` and from the resources' declarations by `make parity`: do not edit.
"""
_DIFFERENCES = """## Differences

What works, and gives other values than in Azure.
"""
_RESOURCES = """## Resources

Below a workspace in Resource Manager. Every one has lists in pages, filters by tags and properties, etags
with If-Match and If-None-Match, and Azure's error bodies; one with versions also has `latest`, archive and
restore.
"""


def routes(resources: Sequence[Resource]) -> str:
    """A Markdown table of the routes of `resources`, one row each."""
    lines = ["| Resource | Path | Versions | Verbs | Actions |", "|---|---|---|---|---|"]
    for resource in resources:
        verbs = ["GET"]
        if not resource.read_only:
            # A version has no PATCH in Azure: it is put again.
            verbs += ["PUT"] if resource.versioned else ["PUT", "PATCH"]
            verbs += ["DELETE"] if resource.deletable else []
        actions = [f"`{name}`" for name in sorted({*resource.actions, *resource.version_actions})]
        lines.append(
            f"| {resource.title} | `{resource.path.replace('{}', 'NAME')}` "
            f"| {'yes' if resource.versioned else ''} | {', '.join(verbs)} | {', '.join(actions)} |"
        )
    return "\n".join(lines)


def page(claims: parity.Parity, resources: Sequence[Resource]) -> str:
    """The whole page: the operations of the clients, the differences, then the resources."""
    operations = ["## Operations\n", parity.render(claims)]
    differences = [_DIFFERENCES, parity.differences(claims), ""]
    return "\n".join([_TITLE, *operations, *differences, _RESOURCES, routes(resources), ""])


def main(arguments: Sequence[str]) -> int:
    """Write the page to the file named; exit code 2 where none is."""
    if len(arguments) != 1:
        print("usage: python -m amlocal.emulator.arm.coverage FILE", file=sys.stderr)
        return 2
    # Here, so that asking for a table alone does not put the whole server's resources together.
    from amlocal.emulator.arm.registry import RESOURCES

    Path(arguments[0]).write_text(page(parity.load(), RESOURCES), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
