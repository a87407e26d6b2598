"""The README's example of a new resource, as it stands there: every route of it answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask

from amlocal.compat import cloud
from amlocal.emulator import settings, worker
from amlocal.emulator.arm import coverage, routes
from amlocal.emulator.http import guard

README = Path(__file__).parents[3] / "README.md"


def test_the_example_of_a_new_resource(tmp_path: Path) -> None:
    found = re.search(r"```python\n(\"\"\"Notebooks:.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    names: dict[str, Any] = {}
    exec(compile(found[1], "README.md", "exec"), names)  # the project's own text
    services = worker.build_services(settings.load({"data_dir": str(tmp_path)}, {}), tmp_path)
    try:
        app = Flask("new")
        guard.install(app, services.settings.port)
        blueprint = Blueprint("arm", "new")
        routes.register(blueprint, names["NOTEBOOKS"], services)
        app.register_blueprint(blueprint)
        client = app.test_client()
        token = services.auth.user_token(cloud.audiences(services.settings.base_url)[0], 600)
        place = services.workspaces.all()[0].arm_id + "/notebooks/mine"

        def call(method: str, path: str, source: Any = None, **headers: str) -> tuple[int, Any]:
            body = {"properties": {"source": source}} if source is not None else None
            answer = client.open(
                f"{path}?api-version=2024-04-01",
                method=method,
                json=body,
                headers={"Authorization": f"Bearer {token}", **headers},
                base_url=services.settings.base_url,
            )
            return answer.status_code, answer.get_json(silent=True)

        assert call("PUT", f"{place}/versions/1", "print(1)")[0] == 201
        assert call("PUT", f"{place}/versions/1", "print(1)")[0] == 200
        assert call("PUT", f"{place}/versions/1", "print(2)")[0] == 409
        assert call("PUT", f"{place}/versions/2", "print(2)", **{"If-Match": "wrong"})[0] == 412
        code, refused = call("PUT", f"{place}/versions/3", 7)
        assert (code, refused["error"]["target"]) == (400, "source")
        assert call("PUT", f"{place}/versions/2", "print(2)")[0] == 201
        assert call("GET", f"{place}/versions/2")[1]["properties"]["source"] == "print(2)"
        assert call("GET", place)[1]["properties"]["latestVersion"] == "2"
        listed = call("GET", f"{place}/versions")[1]["value"]
        assert [item["name"] for item in listed] == ["1", "2"]
        assert call("DELETE", f"{place}/versions/1")[0] == 200
        assert call("GET", f"{place}/versions/1")[1]["error"]["code"] == "ResourceNotFound"
    finally:
        services.store.close()
    assert "| Notebook | `notebooks` | yes | GET, PUT, DELETE |" in coverage.routes([names["NOTEBOOKS"]])
