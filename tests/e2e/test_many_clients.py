"""Many clients at once, each on a connection of its own: no 5xx, no lost write, exact totals."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from conftest import wait_for
from raw_client import ENDED, RawClient, command_job, data_asset, integrity, worker_pid

SHARED = ("shared-a", "shared-b", "shared-c")


@dataclass
class Tally:
    """What one client was told; merged after all have ended."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    # (kind, name, version) to the tag by which a client knows its own write.
    versions: dict[tuple[str, str, str], str] = field(default_factory=dict)
    blobs: dict[str, bytes | None] = field(default_factory=dict)
    documents: dict[str, str | None] = field(default_factory=dict)
    jobs: dict[str, dict[str, str]] = field(default_factory=dict)
    archived: set[tuple[str, str, str]] = field(default_factory=set)


class Client:
    """One client's share of the operations, drawn from a seed."""

    def __init__(self, server: Any, number: int, operations: int, jobs: int) -> None:
        self.number = number
        self.operations = operations
        self.jobs_left = jobs
        self.chance = random.Random(4265 + number)
        self.tally = Tally()
        self.client = RawClient(server, timeout=120)

    def run(self) -> None:
        kinds = [self.data, self.model, self.environment, self.compute, self.datastore, self.job, self.tag]
        kinds += [self.put_blob, self.get_blob, self.delete_blob, self.listing, self.get, self.archive]
        try:
            self.put_blob()
            for step in range(self.operations - 1):
                self.step = step
                self.chance.choice(kinds)()
        except Exception as error:
            self.tally.failures.append(f"client {self.number}: {error!r}")
        finally:
            self.client.close()

    def arm(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, answer = self.client.arm(method, path, body)
        self.tally.statuses[status] += 1
        if status >= 500:
            self.tally.failures.append(f"{method} {path}: {status} {answer}")
        return status, answer

    def good(self, wanted: tuple[int, ...], status: int, answer: Any) -> None:
        if status not in wanted:
            self.tally.failures.append(f"{status} and not {wanted}: {answer}")

    def new_version(self, kind: str, body: Callable[[str], dict[str, Any]]) -> None:
        """As the SDK numbers an asset: asks for the next version and puts it.

        When two ask at the same moment, both put the same version: the one who comes second is told by a 409
        (its content differs) and asks again. So no version is ever given to two.
        """
        name = self.chance.choice(SHARED)
        mine = f"{self.number}-{self.step}"
        for _ in range(500):
            status, found = self.arm("GET", f"{kind}/{name}")
            version = "1" if status == 404 else found["properties"]["nextVersion"]
            status, answer = self.arm("PUT", f"{kind}/{name}/versions/{version}", body(mine))
            if status == 409:
                continue
            self.good((201,), status, answer)
            self.tally.versions[kind, name, version] = mine
            return
        self.tally.failures.append(f"no version of {kind}/{name} was left")

    step = 0

    def _own_file(self, mine: str) -> str:
        name = f"assets/{mine}.txt"
        status, body = self.client.put_blob(name, mine.encode())
        self.tally.statuses[status] += 1
        self.good((201,), status, body)
        return name

    def data(self) -> None:
        self.new_version("data", lambda mine: data_asset(self._own_file(mine), mine=mine))

    def model(self) -> None:
        def body(mine: str) -> dict[str, Any]:
            uri = f"azureml://datastores/workspaceblobstore/paths/{self._own_file(mine)}"
            return {"properties": {"modelType": "custom_model", "modelUri": uri, "tags": {"mine": mine}}}

        self.new_version("models", body)

    def environment(self) -> None:
        self.new_version(
            "environments", lambda mine: {"properties": {"image": f"image:{mine}", "tags": {"mine": mine}}}
        )

    def compute(self) -> None:
        name = f"c{self.number}-{self.chance.randrange(3)}"
        body = {"location": "local", "properties": {"computeType": "AmlCompute", "properties": {}}}
        status, answer = self.arm("PUT", f"computes/{name}", body)
        self.good((200, 201), status, answer)
        self.tally.documents[f"computes/{name}"] = None

    def datastore(self) -> None:
        status, store = self.arm("GET", "datastores/workspaceblobstore")
        self.good((200,), status, store)
        name, mine = f"store_{self.number}", str(self.step)
        account, container = (store["properties"][key] for key in ("accountName", "containerName"))
        body = {
            "properties": {
                "datastoreType": "AzureBlob",
                "accountName": account,
                "containerName": container,
                "credentials": {"credentialsType": "None"},
                "tags": {"mine": mine},
            }
        }
        status, answer = self.arm("PUT", f"datastores/{name}", body)
        self.good((200, 201), status, answer)
        self.tally.documents[f"datastores/{name}"] = mine

    def job(self) -> None:
        if not self.jobs_left:
            return self.tag()
        self.jobs_left -= 1
        name = f"j{self.number}-{self.step}"
        status, answer = self.arm("PUT", f"jobs/{name}", command_job("true", tags={"made": "yes"}))
        self.good((201,), status, answer)
        self.tally.jobs[name] = {"made": "yes"}
        return None

    def tag(self) -> None:
        if not self.tally.jobs:
            return
        name = self.chance.choice(sorted(self.tally.jobs))
        key, value = f"t{self.chance.randrange(4)}", str(self.step)
        status, answer = self.arm("PATCH", f"jobs/{name}", {"properties": {"tags": {key: value}}})
        self.good((200,), status, answer)
        self.tally.jobs[name][key] = value

    def put_blob(self) -> None:
        name = f"own/{self.number}/{self.chance.randrange(5)}"
        content = self.chance.randbytes(self.chance.randrange(1, 20_000))
        status, body = self.client.put_blob(name, content)
        self.tally.statuses[status] += 1
        self.good((201,), status, body)
        self.tally.blobs[name] = content

    def get_blob(self) -> None:
        name = self.chance.choice(sorted(self.tally.blobs))
        status, body, _ = self.client.raw("GET", self.client.blob_path(name))
        self.tally.statuses[status] += 1
        wanted = self.tally.blobs[name]
        self.good((404 if wanted is None else 200,), status, body[:200])
        if wanted is not None and body != wanted:
            self.tally.failures.append(f"{name} has other bytes than were written")

    def delete_blob(self) -> None:
        name = self.chance.choice(sorted(self.tally.blobs))
        status, body, _ = self.client.raw("DELETE", self.client.blob_path(name))
        self.tally.statuses[status] += 1
        self.good((404 if self.tally.blobs[name] is None else 202,), status, body)
        self.tally.blobs[name] = None

    def listing(self) -> None:
        kind = self.chance.choice(("data", "models", "environments", "computes", "datastores", "jobs"))
        status, answer = self.arm("GET", f"{kind}?$top=20")
        self.good((200,), status, answer)

    def get(self) -> None:
        if not self.tally.versions:
            return
        (kind, name, version), mine = self.chance.choice(sorted(self.tally.versions.items()))
        status, answer = self.arm("GET", f"{kind}/{name}/versions/{version}")
        self.good((200,), status, answer)
        if status == 200 and answer["properties"]["tags"]["mine"] != mine:
            self.tally.failures.append(
                f"{kind}/{name}:{version} is {answer['properties']['tags']}, not {mine}"
            )

    def archive(self) -> None:
        if not self.tally.versions:
            return
        kind, name, version = key = self.chance.choice(sorted(self.tally.versions))
        status, found = self.arm("GET", f"{kind}/{name}/versions/{version}")
        self.good((200,), status, found)
        body = {"properties": {**found["properties"], "isArchived": True}}
        status, answer = self.arm("PUT", f"{kind}/{name}/versions/{version}", body)
        self.good((200,), status, answer)
        self.tally.archived.add(key)


def work(server: Any, clients: int, operations: int, jobs: int) -> list[Tally]:
    workers = [Client(server, number, operations, jobs) for number in range(clients)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [worker.tally for worker in workers]


def check(server: Any, tallies: list[Tally]) -> None:
    failures = [failure for tally in tallies for failure in tally.failures]
    assert failures == []
    client = RawClient(server, timeout=120)
    expected: dict[tuple[str, str, str], str] = {}
    for tally in tallies:
        assert not expected.keys() & tally.versions.keys(), "a version was given to two clients"
        expected.update(tally.versions)
    archived = set().union(*(tally.archived for tally in tallies))
    for kind in ("data", "models", "environments"):
        for name in SHARED:
            numbers = sorted(int(v) for k, n, v in expected if (k, n) == (kind, name))
            assert numbers == list(range(1, len(numbers) + 1)), (kind, name)
            if not numbers:
                continue
            found = client.all(f"{kind}/{name}/versions?listViewType=All")
            assert {item["name"]: item["properties"]["tags"]["mine"] for item in found} == {
                v: mine for (k, n, v), mine in expected.items() if (k, n) == (kind, name)
            }
            shown = {item["name"] for item in client.all(f"{kind}/{name}/versions")}
            assert shown == {str(n) for n in numbers if (kind, name, str(n)) not in archived}
    blobs = {name: content for tally in tallies for name, content in tally.blobs.items()}
    assert set(client.blobs("own/")) == {name for name, content in blobs.items() if content is not None}
    for name, content in blobs.items():
        if content is not None:
            assert client.raw("GET", client.blob_path(name))[:2] == (200, content), name
    for tally in tallies:
        for path, mine in tally.documents.items():
            status, found = client.arm("GET", path)
            assert status == 200 and (mine is None or found["properties"]["tags"] == {"mine": mine}), path
    jobs = {name: tags for tally in tallies for name, tags in tally.jobs.items()}
    listed = {item["name"]: item["properties"]["tags"] for item in client.all("jobs")}
    assert {name: tags for name, tags in listed.items() if name.startswith("j")} == jobs

    def all_ended() -> bool:
        return all(item["properties"]["status"] in ENDED for item in client.all("jobs"))

    wait_for(all_ended, 300, "the end of the jobs")
    assert {item["properties"]["status"] for item in client.all("jobs")} <= {"Completed"}
    assert set(integrity(server)) == {"ok"}
    client.close()


@pytest.mark.parametrize(
    ("clients", "operations", "jobs"),
    [(16, 50, 1), pytest.param(64, 200, 3, marks=pytest.mark.slow)],
    ids=["16x50", "64x200"],
)
def test_many_clients(new_server: Callable[[], Any], clients: int, operations: int, jobs: int) -> None:
    server = new_server()
    server.start()
    pid = worker_pid(server)
    tallies = work(server, clients, operations, jobs)
    check(server, tallies)
    total = sum((tally.statuses for tally in tallies), Counter())
    assert total.total() >= clients * operations * 3 // 4
    assert worker_pid(server) == pid
    server.stop()
