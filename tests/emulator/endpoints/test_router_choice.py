"""Which deployment gets a request, and which a copy: weights within statistics, limits, queues, scaling."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import TYPE_CHECKING

import httpx
import pytest

from amlocal.emulator.endpoints.route_table import DeploymentRoute, EndpointRoute, Instance
from amlocal.emulator.endpoints.traffic import choose, mirrored
from amlocal.emulator.http.errors import AzureError

if TYPE_CHECKING:
    from conftest import Seen, Stage

DRAWS = 10_000
# What chi-square with 1, 2 and 3 degrees of freedom passes in one of 100,000 cases.
CHI_SQUARE = {1: 19.5, 2: 23.0, 3: 26.0}


def endpoint(traffic: dict[str, int], mirror: dict[str, int] | None = None, **states: str) -> EndpointRoute:
    deployments = {
        name: DeploymentRoute((Instance(f"/{name}"),), state=states.get(name, "Succeeded"))
        for name in ("blue", "green", "red", "new")
    }
    return EndpointRoute(traffic=traffic, mirror=mirror or {}, deployments=deployments)


@pytest.mark.parametrize(
    "traffic",
    [
        {"blue": 50, "green": 50},
        {"blue": 90, "green": 10, "red": 0},
        {"blue": 99, "green": 1},
        {"blue": 70, "green": 20, "red": 9, "new": 1},
        {"blue": 33, "green": 33, "red": 34},
    ],
)
def test_weights_are_obeyed(traffic: dict[str, int]) -> None:
    rng = random.Random(11)
    seen = Counter(choose(endpoint(traffic), None, rng) for _ in range(DRAWS))
    positive = {name: weight for name, weight in traffic.items() if weight}
    assert set(seen) == set(positive)
    distance = sum(
        (seen[name] - DRAWS * weight / 100) ** 2 / (DRAWS * weight / 100) for name, weight in positive.items()
    )
    assert distance < CHI_SQUARE[len(positive) - 1]


def test_shares_of_deployments_that_do_not_serve_go_to_the_others() -> None:
    rng = random.Random(1)
    route = endpoint({"blue": 10, "green": 30, "red": 60}, red="Creating")
    seen = Counter(choose(route, None, rng) for _ in range(DRAWS))
    # 25 %; 4.5 standard deviations are 0.0195.
    assert set(seen) == {"blue", "green"} and abs(seen["blue"] / DRAWS - 0.25) < 0.0195


@pytest.mark.parametrize(
    ("route", "wanted", "status", "words"),
    [
        (endpoint({}), None, 404, "no valid deployment with positive weight"),
        (endpoint({"blue": 0}), None, 404, "no valid deployment with positive weight"),
        (endpoint({"gone": 100}), None, 404, "no valid deployment with positive weight"),
        (endpoint({"blue": 100}, blue="Failed"), None, 404, "no valid deployment with positive weight"),
        (endpoint({"blue": 100}, blue="Creating"), None, 503, "'blue' \\(Creating\\)"),
        (endpoint({"blue": 100}), "gone", 404, "names 'gone'; this endpoint has: blue, green, new, red"),
        (endpoint({"blue": 100}, red="Failed"), "red", 503, "state Failed"),
    ],
)
def test_nothing_to_choose(route: EndpointRoute, wanted: str | None, status: int, words: str) -> None:
    with pytest.raises(AzureError, match=words) as caught:
        choose(route, wanted, random.Random(0))
    assert caught.value.status == status


def test_the_share_that_is_mirrored() -> None:
    rng = random.Random(5)
    route = endpoint({"blue": 100}, {"new": 20})
    seen = Counter(mirrored(route, "blue", rng) for _ in range(DRAWS))
    # 4.5 standard deviations are 0.018.
    assert set(seen) == {None, "new"} and abs(seen["new"] / DRAWS - 0.2) < 0.018
    for nothing in ({}, {"new": 0}, {"gone": 50}, {"blue": 50}):
        route = endpoint({"blue": 100}, nothing)
        assert {mirrored(route, "blue", rng) for _ in range(200)} == {None}
    route = endpoint({"blue": 100}, {"new": 50}, new="Creating")
    assert {mirrored(route, "blue", rng) for _ in range(200)} == {None}


def labels(stage: Stage, name: str) -> str:
    return f'workspace="{stage.workspace}",endpoint="digits",deployment="{name}"'


def test_copies_go_out_and_their_failures_touch_nobody(stage: Stage) -> None:
    stage.reset(mirror={"green": 50})
    stage.behave("green", lambda seen: None)  # hangs up on everybody
    answers = [stage.post(b"body-%d" % number) for number in range(100)]
    assert {(answer.status_code, answer.json()["deployment"]) for answer in answers} == {(200, "blue")}
    stage.until(lambda: stage.metrics().get(f"amlocal_mirrored_total{{{labels(stage, 'green')}}}", 0) > 25)
    copies = {seen.body for seen in stage.scorers["green"].seen}
    originals = [seen.body for seen in stage.scorers["blue"].seen]
    assert len(originals) == 100 and copies < set(originals) and 25 < len(copies) < 75
    ended = f'amlocal_requests_total{{{labels(stage, "green")},status="424"}}'
    begun = f"amlocal_mirrored_total{{{labels(stage, 'green')}}}"

    def all_ended() -> bool:
        """None is on its way any more, to be seen by a later test."""
        found = stage.metrics()
        return found[begun] == found[ended] == len(stage.scorers["green"].seen)

    stage.until(all_ended)


def test_a_request_that_names_its_deployment_is_not_copied(stage: Stage) -> None:
    stage.reset(mirror={"green": 100})
    for _ in range(20):
        assert stage.post(AzureML_Model_Deployment="blue").status_code == 200
    stage.ask("swagger.json", method="GET")
    assert not stage.scorers["green"].seen
    stage.post()
    stage.until(lambda: len(stage.scorers["green"].seen) == 1)


def test_a_slow_mirror_cannot_pile_up(stage: Stage) -> None:
    go_on = threading.Event()

    def wait(seen: Seen) -> bytes:
        go_on.wait(30)
        return stage.answer()

    slow = stage.deployment("green", max_concurrent=100, request_timeout_ms=60_000)
    both = {"blue": stage.deployment("blue"), "green": slow}
    before = stage.metrics().get(f"amlocal_mirror_dropped_total{{{labels(stage, 'green')}}}", 0)
    stage.reset(mirror={"green": 100}, deployments=both)
    stage.behave("green", wait)
    try:
        assert {stage.post().status_code for _ in range(40)} == {200}
        dropped = stage.metrics()[f"amlocal_mirror_dropped_total{{{labels(stage, 'green')}}}"]
        assert dropped - before == 40 - 32
    finally:
        go_on.set()


def in_parallel(stage: Stage, count: int, body: bytes = b"x") -> list[httpx.Response]:
    answers: list[httpx.Response] = []

    def call() -> None:
        with stage.new_client() as client:
            answers.append(stage.post(body, client=client))

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


class Gate:
    """Lets requests wait in a stand-in, and knows how many are there at once."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.opened = threading.Event()
        self.inside = 0
        self.most = 0
        self._guard = threading.Lock()

    def __call__(self, seen: Seen) -> bytes:
        with self._guard:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.opened.wait(20)
        with self._guard:
            self.inside -= 1
        return self.answer


def test_the_limit_is_twice_the_places_of_all_instances(stage: Stage) -> None:
    instances = tuple(Instance(str(path)) for path in stage.sockets.values())
    stage.reset(deployments={"blue": DeploymentRoute(instances, 60_000, max_concurrent=2)})
    gates = {name: Gate(stage.answer()) for name in ("blue", "green")}
    for name, gate in gates.items():
        stage.behave(name, gate)
    thread = threading.Thread(target=lambda: answers.extend(in_parallel(stage, 8)))
    answers: list[httpx.Response] = []
    thread.start()
    key = f"amlocal_requests_in_flight{{{labels(stage, 'blue')}}}"
    stage.until(lambda: stage.metrics().get(key) == 8)
    refused = stage.post()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "TooManyRequests")
    # A request counts before its scorer has it.
    stage.until(lambda: {name: gate.inside for name, gate in gates.items()} == {"blue": 2, "green": 2})
    for gate in gates.values():
        gate.opened.set()
    thread.join()
    assert [answer.status_code for answer in answers] == [200] * 8
    assert {gate.most for gate in gates.values()} == {2}


def test_who_waits_gets_a_place_at_a_new_instance(stage: Stage) -> None:
    """Blue's one place is taken for good; green is added to the deployment while another request waits."""
    gate = Gate(stage.answer())
    stage.reset(deployments={"blue": stage.deployment("blue", max_concurrent=1, request_timeout_ms=60_000)})
    stage.behave("blue", gate)
    first = threading.Thread(target=lambda: in_parallel(stage, 1))
    first.start()
    stage.until(lambda: gate.inside == 1)
    answers: list[httpx.Response] = []
    second = threading.Thread(target=lambda: answers.extend(in_parallel(stage, 1)))
    second.start()
    key = f"amlocal_requests_in_flight{{{labels(stage, 'blue')}}}"
    stage.until(lambda: stage.metrics()[key] == 2)
    two = (*stage.deployment("blue").instances, *stage.deployment("green").instances)
    stage.put(deployments={"blue": DeploymentRoute(two, 60_000)})
    second.join(20)
    assert [answer.json()["deployment"] for answer in answers] == ["green"]
    assert gate.inside == 1
    gate.opened.set()
    first.join(20)


def test_who_waits_for_a_deployment_that_goes_away_is_served_by_the_next(stage: Stage) -> None:
    gate = Gate(stage.answer(body=b'{"deployment": "old"}'))
    stage.reset(deployments={"blue": stage.deployment("blue", max_concurrent=1, request_timeout_ms=60_000)})
    stage.behave("blue", gate)
    answers: list[httpx.Response] = []
    calls = threading.Thread(target=lambda: answers.extend(in_parallel(stage, 2)))
    calls.start()
    key = f"amlocal_requests_in_flight{{{labels(stage, 'blue')}}}"
    stage.until(lambda: stage.metrics().get(key) == 2)
    stage.put(traffic={"green": 100}, deployments={"green": stage.deployment("green")})
    stage.until(lambda: stage.scorers["green"].seen)
    gate.opened.set()
    calls.join(20)
    assert sorted(answer.json()["deployment"] for answer in answers) == ["green", "old"]


def test_waiting_counts_towards_the_timeout(stage: Stage) -> None:
    gate = Gate(stage.answer())
    stage.reset(deployments={"blue": stage.deployment("blue", max_concurrent=1, request_timeout_ms=400)})
    stage.behave("blue", gate)
    answers = in_parallel(stage, 2)
    assert [answer.status_code for answer in answers] == [408, 408]
    assert len(stage.scorers["blue"].seen) <= 2
    gate.opened.set()
    stage.behave("blue", lambda seen: stage.answer())
    # The same places; only the time for an answer is another one.
    blue = stage.deployment("blue", max_concurrent=1, request_timeout_ms=20_000)
    stage.put(deployments={"blue": blue})
    assert stage.post().status_code == 200
