"""One look at the hub: what it finds out, how long it may take, and how seldom it is taken."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from hub_desk import COMMIT, Hub, black_hole

from amlocal.compat import hub, hub_look

FILE = "timm/resnet18.a1_in1k/model.safetensors"


@pytest.fixture
def desk() -> Iterator[Hub]:
    hub_look.forget()
    made = Hub()
    yield made
    made.close()
    hub_look.forget()


def ask(endpoint: str, file: str = "model.safetensors") -> hub_look.Answer:
    return hub_look.look("timm/resnet18.a1_in1k", file, {"HF_ENDPOINT": endpoint})


def answer(handler: BaseHTTPRequestHandler, status: int, **headers: str) -> bool:
    handler.send_response(status)
    for name, value in {"Content_Length": "0", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    return True


def test_a_file_that_is_there_and_one_that_is_not(desk: Hub) -> None:
    desk.files[FILE] = b"x"
    assert ask(f"{desk.url}/") == hub_look.Answer("there")
    assert ask(desk.url, "other.bin") == hub_look.Answer("missing", f"{desk.url} has no such file")
    assert desk.asked == [
        "HEAD /timm/resnet18.a1_in1k/resolve/main/model.safetensors",
        "HEAD /timm/resnet18.a1_in1k/resolve/main/other.bin",
    ]


@pytest.mark.parametrize(
    ("status", "headers", "state", "reason"),
    [
        (302, {"X_Repo_Commit": COMMIT, "Location": "https://cdn.example/x"}, "there", ""),
        (307, {"Location": "/timm/renamed/resolve/main/model.safetensors"}, "there", ""),
        (302, {"Location": "https://log-in.example"}, "unreachable", "is no Hugging Face hub"),
        (200, {}, "unreachable", "is no Hugging Face hub"),
        (401, {}, "refused", "answered 401: the repository is private or gated, or does not exist"),
        (403, {}, "refused", "answered 403"),
        (503, {}, "unreachable", "answered 503"),
    ],
)
def test_other_answers(desk: Hub, status: int, headers: dict[str, str], state: str, reason: str) -> None:
    desk.answer = lambda handler, name: answer(handler, status, **headers)
    found = ask(desk.url)
    assert found.state == state and reason in found.reason
    assert found.there == (state == "there")


def test_an_answer_is_remembered_for_a_minute(desk: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(desk.url).state == "missing"
    desk.files[FILE] = b"x"
    assert ask(desk.url).state == "missing" and len(desk.asked) == 1
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + hub_look.REMEMBERED - 5)
    assert ask(desk.url).state == "missing" and len(desk.asked) == 1
    monkeypatch.setattr(time, "monotonic", lambda: now() + hub_look.REMEMBERED + 1)
    assert ask(desk.url).state == "there" and len(desk.asked) == 2


def test_who_says_nothing_is_asked_once_for_all_files(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_look.forget()
    with black_hole() as url:
        found: list[hub_look.Answer] = []
        looks: list[hub_look._Look] = []
        made = hub_look._Look
        monkeypatch.setattr(hub_look, "_Look", lambda address: looks.append(made(address)) or looks[-1])
        threads = [threading.Thread(target=lambda: found.append(ask(url))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {one.state for one in found} == {"unreachable"} and len(found) == 20
        assert {one.reason for one in found} == {f"{url} did not answer within 3 s"}
        assert ask(url, "config.json").state == "unreachable"
        assert len(looks) == 1
    until_no_look_is_under_way()


def test_who_drips_costs_no_more_and_keeps_no_thread() -> None:
    hub_look.forget()
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    for _ in range(1000):
                        connection.sendall(b"H")
                        time.sleep(0.1)
                    over.set()
                except OSError:
                    return

        threading.Thread(target=drip, daemon=True).start()
        # It would go on for a minute and a half.
        assert ask(f"http://127.0.0.1:{listener.getsockname()[1]}").state == "unreachable"
        assert not over.is_set()
        until_no_look_is_under_way()


def until_no_look_is_under_way() -> None:
    deadline = time.monotonic() + 5
    while any(thread.name == "hub" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a look goes on"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("http://127.0.0.1:9", "http://127.0.0.1:9 cannot be reached: Connection refused"),
        ("https://127.0.0.1:9", "https://127.0.0.1:9 cannot be reached"),
        ("http://nobody.invalid", "http://nobody.invalid cannot be reached"),
        ("ftp://127.0.0.1", "HF_ENDPOINT must begin with https:// or http://"),
        ("huggingface.co", "HF_ENDPOINT must begin with https:// or http://"),
        ("http://[::1", "http://[::1 cannot be reached: Invalid IPv6 URL"),
        ("http://127.0.0.1:port", "cannot be reached"),
        ("http://me:secret@127.0.0.1:9", "http://127.0.0.1:9 cannot be reached"),
        ("http://127.0.0.1:9/a b\r\nX: y", "cannot be reached"),
    ],
)
def test_addresses_that_do_not_work(endpoint: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_look.forget()
    resolve = socket.getaddrinfo

    def resolved(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "nobody.invalid":  # as a resolver says it, but at once
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    found = ask(endpoint)
    assert found.state == "unreachable"
    assert reason in found.reason and "secret" not in found.reason


def test_a_certificate_that_is_not_trusted_is_not_spoken_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def plain() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        threading.Thread(target=plain, daemon=True).start()
        assert ask(f"https://127.0.0.1:{listener.getsockname()[1]}").state == "unreachable"


@pytest.mark.parametrize("value", ["1", "true", "Yes", "ON"])
def test_offline_nobody_is_asked(desk: Hub, value: str) -> None:
    found = hub_look.look("a/b", "c", {"HF_ENDPOINT": desk.url, "HF_HUB_OFFLINE": value})
    assert (found.state, found.there, desk.asked) == ("offline", False, [])
    assert "HF_HUB_OFFLINE is set" in found.reason
    assert not hub.offline({"HF_HUB_OFFLINE": "0"}) and not hub.offline({})


def test_many_names_do_not_fill_the_memory(desk: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_look, "_MOST_REMEMBERED", 4)
    for number in range(20):
        ask(desk.url, f"file{number}")
        assert len(hub_look._desk._known) <= 4
    assert len(desk.asked) == 20
