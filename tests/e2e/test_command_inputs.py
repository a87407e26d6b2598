"""Inputs of command jobs through the unmodified SDK: every type, source and mode."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from job_desk import ended, make, message

MIRRORED = "https://data.example.com/sets"
# Writes what its inputs are, whether addresses, files or folders, as JSON into the output.
SHOW = """python -c '
import json, pathlib, sys
def show(given):
    p = pathlib.Path(given)
    folder = {f.relative_to(p).as_posix(): f.read_text() for f in p.rglob("*") if f.is_file()}
    return {"given": given, "file": p.read_text() if p.is_file() else None, "folder": folder}
open(sys.argv[1], "w").write(json.dumps([show(given) for given in sys.argv[2:]]))
' ${{outputs.seen}}"""


def show(ml_client: Any, *sources: Any) -> Any:
    """Submit a job that shows its inputs."""
    from azure.ai.ml import Output

    inputs = {f"x{number}": source for number, source in enumerate(sources)}
    command = SHOW + "".join(f" ${{{{inputs.{name}}}}}" for name in inputs)
    return ml_client.jobs.create_or_update(
        make(command, inputs=inputs, outputs={"seen": Output(type="uri_file")})
    )


def all_seen(server: Any, ml_client: Any, job: Any) -> list[dict[str, Any]]:
    """What the job of `show` wrote, by input, read on disk."""
    done = ended(ml_client, job.name)
    log = next(server.folder.blobs.glob(f"*/azureml/ExperimentRun/dcid.{job.name}/user_logs/std_log.txt"))
    assert done.status == "Completed", log.read_text()
    file = next(server.folder.blobs.glob(f"*/azureml-blobstore-*/azureml/{job.name}/seen/seen"))
    found: list[dict[str, Any]] = json.loads(file.read_text())
    return found


def seen(server: Any, ml_client: Any, job: Any) -> dict[str, Any]:
    """What the job of `show` wrote of its one input."""
    return all_seen(server, ml_client, job)[0]


@pytest.fixture(scope="module")
def assets(ml_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of data and models, registered as `in-TYPE`."""
    from azure.ai.ml.entities import Data, Model

    root = tmp_path_factory.mktemp("assets")
    texts = {
        "uri_file/f.txt": "F",
        "uri_folder/sub/g.txt": "G",
        "mltable/MLTable": "paths:\n  - folder: ./rows\n",
        "mltable/rows/r.csv": "a\n1\n",
        "custom_model/m.bin": "M",
        "mlflow_model/MLmodel": "flavors:\n  python_function:\n    loader_module: x\n",
        "triton_model/net/config.pbtxt": 'name: "net"\n',
        "triton_model/net/1/model.onnx": "O",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for kind in ("uri_file", "uri_folder", "mltable"):
        path = root / kind / "f.txt" if kind == "uri_file" else root / kind
        ml_client.data.create_or_update(Data(name=f"in-{kind}", version="1", path=str(path), type=kind))
    for kind in ("custom_model", "mlflow_model", "triton_model"):
        ml_client.models.create_or_update(
            Model(name=f"in-{kind}", version="1", path=str(root / kind), type=kind)
        )
    return root


CONTENTS = {
    "uri_file": ("F", {}),
    "uri_folder": (None, {"sub/g.txt": "G"}),
    "mltable": (None, {"MLTable": "paths:\n  - folder: ./rows\n", "rows/r.csv": "a\n1\n"}),
    "custom_model": (None, {"m.bin": "M"}),
    "mlflow_model": (None, {"MLmodel": "flavors:\n  python_function:\n    loader_module: x\n"}),
    "triton_model": (None, {"net/1/model.onnx": "O", "net/config.pbtxt": 'name: "net"\n'}),
}


def test_every_type_from_every_source(server: Any, ml_client: Any, assets: Path) -> None:
    from azure.ai.ml import Input

    sources: dict[str, dict[str, Any]] = {}
    modes = {"version": "ro_mount", "latest": "download", "long": "rw_mount", "short": "download"}
    for kind in CONTENTS:
        registry = ml_client.models if kind.endswith("model") else ml_client.data
        asset = registry.get(f"in-{kind}", version="1")
        local = assets / kind / "f.txt" if kind == "uri_file" else assets / kind
        short = asset.path[asset.path.index("/datastores/") :]
        paths = {
            "local": str(local),
            "version": f"azureml:in-{kind}:1",
            "latest": f"azureml:in-{kind}@latest",
            "long": asset.path,
            "short": f"azureml:/{short}",
            "arm": asset.id,
        }
        for source, path in paths.items():
            # azure-ai-ml looks for the newest Triton model among the data assets.
            if (kind, source) != ("triton_model", "latest"):
                given = Input(type=kind, path=path, mode=modes.get(source))
                sources.setdefault(source, {})[kind] = given
    jobs = {source: show(ml_client, *inputs.values()) for source, inputs in sources.items()}
    for source, job in jobs.items():
        found = [(one["file"], one["folder"]) for one in all_seen(server, ml_client, job)]
        assert found == [CONTENTS[kind] for kind in sources[source]], source


def test_literals_and_a_path_handed_on_directly(server: Any, ml_client: Any, assets: Path) -> None:
    from azure.ai.ml import Input, Output

    folder = ml_client.data.get("in-uri_folder", version="1")
    job = make(
        "printf '%s|' ${{inputs.text}} ${{inputs.number}} ${{inputs.whole}} ${{inputs.flag}} "
        '"${{inputs.quoted}}" $[[${{inputs.absent}}]] $AZURE_ML_INPUT_number ${{inputs.direct}} '
        "> ${{outputs.out}}/seen.txt",
        inputs={
            "text": "two words",
            "number": 0.5,
            "whole": 7,
            "flag": True,
            "quoted": "a\nb'c\"$(id)`id`\\$HOME",
            "direct": Input(type="uri_folder", path=folder.path, mode="direct"),
        },
        outputs={"out": Output(type="uri_folder")},
    )
    done = ml_client.jobs.create_or_update(job)
    assert ended(ml_client, done.name).status == "Completed"
    file = next(server.folder.blobs.glob(f"*/azureml-blobstore-*/azureml/{done.name}/out/seen.txt"))
    texts = ["two words", "0.5", "7", "True", "a\nb'c\"$(id)`id`\\$HOME", "0.5", folder.path, ""]
    assert file.read_text() == "|".join(texts)


def test_an_mltable_of_one_folder_can_be_evaluated(server: Any, ml_client: Any, assets: Path) -> None:
    from azure.ai.ml import Input
    from azure.core.exceptions import HttpResponseError

    for mode in ("eval_mount", "eval_download"):
        job = show(ml_client, Input(type="mltable", path="azureml:in-mltable:1", mode=mode))
        assert seen(server, ml_client, job)["folder"] == {"r.csv": "a\n1\n"}
    more = assets.parent / f"{assets.name}-more"
    more.mkdir()
    (more / "MLTable").write_text("paths:\n  - file: ./r.csv\ntransformations:\n  - read_delimited:\n")
    (more / "r.csv").write_text("a\n1\n")
    with pytest.raises(HttpResponseError, match="Evaluating an MLTable") as caught:
        show(ml_client, Input(type="mltable", path=str(more), mode="eval_mount"))
    assert (caught.value.status_code, caught.value.error.code) == (501, "NotImplemented")


def test_the_output_of_a_job_is_the_input_of_another(server: Any, ml_client: Any) -> None:
    from azure.ai.ml import Input, Output

    first = ml_client.jobs.create_or_update(
        make(
            "mkdir -p ${{outputs.o}}/deep outputs && echo -n D > ${{outputs.o}}/deep/d.txt"
            " && echo -n A > outputs/a.txt",
            outputs={"o": Output(type="uri_folder")},
        )
    )
    assert ended(ml_client, first.name).status == "Completed"
    for path, kind, wanted in (
        (f"azureml://jobs/{first.name}/outputs/o/paths/deep/", "uri_folder", (None, {"d.txt": "D"})),
        (f"azureml://jobs/{first.name}/outputs/o/paths/deep/d.txt", "uri_file", ("D", {})),
        (f"azureml://jobs/{first.name}/outputs/artifacts/paths/outputs/a.txt", "uri_file", ("A", {})),
    ):
        found = seen(server, ml_client, show(ml_client, Input(type=kind, path=path)))
        assert (found["file"], found["folder"]) == wanted, path


@pytest.mark.parametrize(
    ("given", "status", "text"),
    [
        (
            {"type": "uri_file", "path": "azureml:in-uri_folder:1"},
            400,
            "is a folder; use the type uri_folder",
        ),
        (
            {"type": "uri_folder", "path": "azureml:in-uri_file:1"},
            400,
            "is a file; uri_folder needs a folder",
        ),
        ({"type": "mltable", "path": "azureml:in-uri_folder:1"}, 400, "holds no file named MLTable"),
        ({"type": "uri_folder", "path": "azureml:in-uri_folder:9"}, 400, "has no version 9"),
        ({"type": "uri_folder", "path": "azureml://datastores/none/paths/x"}, 400, "has no datastore 'none'"),
        (
            {"type": "uri_folder", "path": "https://data.example.com/other/"},
            400,
            "cannot be fetched from a web",
        ),
        (
            {"type": "uri_file", "path": "wasbs://c@acc.blob.core.windows.net/f"},
            501,
            "mirror for https://acc.blob.core.windows.net/c",
        ),
        ({"type": "uri_file", "path": "http://169.254.169.254/metadata"}, 400, "metadata service"),
        ({"type": "uri_file", "path": "https://user:pw@data.example.com/f"}, 400, "has a user name"),
        ({"type": "uri_file", "path": "https://data.example.com/f", "mode": "rw_mount"}, 400, "rw_mount"),
    ],
)
def test_an_input_that_cannot_be_had_is_refused_at_submit(
    ml_client: Any, assets: Path, given: dict[str, str], status: int, text: str
) -> None:
    from azure.ai.ml import Input
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as caught:
        show(ml_client, Input(**given))
    assert caught.value.status_code == status
    assert text in caught.value.message


@pytest.fixture(scope="module")
def mirrored(new_server: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with mirrors; (server, folder of the longer prefix)."""
    root = tmp_path_factory.mktemp("mirrors")
    for name, text in (
        ("short/sets/a.txt", "short"), ("short/b.txt", "B"), ("long/a.txt", "long"),
        ("long/dir/c.txt", "C"), ("container/w.txt", "W"), ("secret.txt", "never"),
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "long" / "leak").symlink_to(root / "secret.txt")
    (root / "long" / "dir" / "leak").symlink_to(root)
    server = new_server()
    server.root.mkdir(parents=True, exist_ok=True)
    (server.root / "config.toml").write_text(
        "[mirrors]\n"
        f'"https://data.example.com" = "{root}/short"\n'
        f'"{MIRRORED}/" = "{root}/long"\n'
        f'"https://acc.blob.core.windows.net/container" = "{root}/container"\n'
    )
    server.start()
    return server


def raw_input(server: Any, name: str, given: dict[str, Any]) -> tuple[int, Any]:
    body = {
        "jobType": "Command",
        "environmentId": "azureml:host:1",
        "command": SHOW + " ${{inputs.x}}",
        "inputs": {"x": given},
        "outputs": {"seen": {"jobOutputType": "uri_file"}},
    }
    answer: tuple[int, Any] = server.call("PUT", f"{server.workspace_path}/jobs/{name}", {"properties": body})
    return answer


def raw_end(server: Any, name: str) -> str:
    def status() -> str:
        found: str = server.call("GET", f"{server.workspace_path}/jobs/{name}")[1]["properties"]["status"]
        return found if found in ("Completed", "Failed", "Canceled") else ""

    found: str = wait_for(status, 60, f"the end of {name}")
    return found


def raw_seen(server: Any, name: str) -> dict[str, Any]:
    assert raw_end(server, name) == "Completed", server.logs()
    file = next(server.folder.blobs.glob(f"*/azureml-blobstore-*/azureml/{name}/seen/seen"))
    found: dict[str, Any] = json.loads(file.read_text())[0]
    return found


def test_mirrors_stand_for_web_addresses(mirrored: Any) -> None:
    cases = {
        "longest": ("uri_file", f"{MIRRORED}/a.txt?sig=secret", ("long", {})),
        "shorter": ("uri_file", "https://data.example.com/b.txt", ("B", {})),
        "folder": ("uri_folder", f"{MIRRORED}/dir/", (None, {"c.txt": "C"})),
        "storage": ("uri_file", "wasbs://container@acc.blob.core.windows.net/w.txt", ("W", {})),
        "container": ("uri_folder", "wasbs://container@acc.blob.core.windows.net/", (None, {"w.txt": "W"})),
    }
    for name, (kind, uri, _) in cases.items():
        assert raw_input(mirrored, name, {"jobInputType": kind, "uri": uri})[0] == 201, name
    for name, (_, _, wanted) in cases.items():
        found = raw_seen(mirrored, name)
        assert (found["file"], found["folder"]) == wanted, name


def test_a_mirror_that_lacks_the_file_refuses_the_job(mirrored: Any) -> None:
    for path, text in (("absent.txt", "which has no absent.txt"), ("leak", "leads out of the mirror")):
        given = {"jobInputType": "uri_file", "uri": f"{MIRRORED}/{path}"}
        status, answer = raw_input(mirrored, "never", given)
        assert (status, answer["error"]["target"]) == (400, "inputs.x")
        assert text in answer["error"]["message"]
        assert mirrored.call("GET", f"{mirrored.workspace_path}/jobs/never")[0] == 404


class _Web(http.server.BaseHTTPRequestHandler):
    asked: list[str]

    def __init__(self, asked: list[str], *arguments: Any) -> None:
        self.asked = asked
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        places = {
            "/away": f"http://localhost:{self.server.server_address[1]}/file.txt",
            "/meta": "http://169.254.169.254/",
        }
        if self.path in places:
            self.send_response(302)
            self.send_header("Location", places[self.path])
            self.end_headers()
            return
        found = self.path.partition("?")[0] == "/file.txt"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(b"from the web" if found else b"")

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Web, asked))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    thread.join()


def test_a_web_address_is_fetched_once(server: Any, ml_client: Any, web: tuple[str, list[str]]) -> None:
    from azure.ai.ml import Input

    address, asked = web
    job = show(ml_client, Input(type="uri_file", path=f"{address}/file.txt?key=1"))
    found = seen(server, ml_client, job)
    assert found["file"] == "from the web"
    assert Path(found["given"]).name == "file.txt"
    assert asked == ["/file.txt?key=1"]
    job = show(ml_client, Input(type="uri_file", path=f"{address}/away", mode="download"))
    assert seen(server, ml_client, job)["file"] == "from the web"
    job = show(ml_client, Input(type="uri_file", path=f"{address}/file.txt", mode="direct"))
    assert seen(server, ml_client, job)["given"] == f"{address}/file.txt"
    assert asked[1:] == ["/away", "/file.txt"]


def test_a_web_address_that_cannot_be_fetched_fails_the_job(
    server: Any, ml_client: Any, web: tuple[str, list[str]]
) -> None:
    from azure.ai.ml import Input
    from azure.core.exceptions import HttpResponseError

    address, _ = web
    with socket.socket() as deaf:  # it has a port and does not listen there
        deaf.bind(("127.0.0.1", 0))
        for url, reason in (
            (f"http://127.0.0.1:{deaf.getsockname()[1]}/x?sig=secret", "Connection refused"),
            (f"{address}/none", "the answer is 404"),
            (f"{address}/meta", "metadata service"),
        ):
            job = show(ml_client, Input(type="uri_file", path=url))
            assert ended(ml_client, job.name).status == "Failed"
            text = message(server, job.name)
            assert url.partition("?")[0] in text and reason in text and "setting mirrors" in text
            assert "secret" not in text
    for own in (f"https://localhost:{server.port}/", f"http://127.0.0.1:{server.port + 1}/x"):
        with pytest.raises(HttpResponseError, match="this server itself"):
            show(ml_client, Input(type="uri_file", path=own))
