"""The modules that scoring scripts import to see the raw HTTP request. Part of `scorer.py`.

`azureml.contrib.services.aml_request` and `.aml_response`, and the same of
`azureml_inference_server_http.api`, with AMLRequest, AMLResponse and rawhttp as Azure's "Advanced entry
scripts" shows them. They are provided only where the interpreter has none of its own. A request is Flask's
where Flask is installed, as in Azure, else werkzeug's, else a small one of this file's.

Standard library only, unless the interpreter has Flask or werkzeug and a script asks for them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sys
import types
import urllib.parse
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, MutableMapping, Sequence  # noqa: UP035

if TYPE_CHECKING:
    from amlocal.emulator.host.scorer_requests import Request

PACKAGES = ("azureml.contrib.services", "azureml_inference_server_http.api")
REQUEST_MODULES = tuple(f"{package}.aml_request" for package in PACKAGES)
RESPONSE_MODULES = tuple(f"{package}.aml_response" for package in PACKAGES)
MARK = "amlocal_raw_http"


def rawhttp(function: Any) -> Any:
    """Decorator of run(): call it with the request itself instead of the body's text."""
    setattr(function, MARK, True)
    return function


class Headers(MutableMapping[str, str]):
    """HTTP headers: names in any case."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._values: dict[str, tuple[str, str]] = {}
        for name, value in pairs:
            before = self.get(name)
            self[name] = value if before is None else f"{before}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()][1]

    def __setitem__(self, name: str, value: object) -> None:
        self._values[name.lower()] = (name, str(value))

    def __delitem__(self, name: str) -> None:
        del self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._values.values())

    def __len__(self) -> int:
        return len(self._values)


class Values(dict):  # type: ignore[type-arg]
    """Arguments of a query or form: the first value of a name, `getlist` for all."""

    def __init__(self, text: str) -> None:
        self._all = urllib.parse.parse_qs(text, keep_blank_values=True)
        super().__init__({name: values[0] for name, values in self._all.items()})

    def getlist(self, name: str) -> list[str]:
        return list(self._all.get(name, ()))


class PlainRequest:
    """The parts of Flask's request that scoring scripts use, where there is neither Flask nor werkzeug."""

    def __init__(self, request: Request) -> None:
        self.method = request.method
        self.path = request.path
        self.query_string = request.query.encode("latin-1")
        self.full_path = f"{request.path}?{request.query}"
        self.headers = Headers(request.headers.items())
        self.args = Values(request.query)
        self.data = request.take()

    @property
    def content_type(self) -> str | None:
        return self.headers.get("Content-Type")

    @property
    def mimetype(self) -> str:
        return (self.content_type or "").partition(";")[0].strip().lower()

    @property
    def content_length(self) -> int:
        return len(self.data)

    @property
    def is_json(self) -> bool:
        return self.mimetype == "application/json" or self.mimetype.endswith("+json")

    @property
    def json(self) -> Any:
        return self.get_json()

    @property
    def form(self) -> Values:
        if self.mimetype == "multipart/form-data":
            raise RuntimeError("multipart forms need the package werkzeug in the deployment's environment")
        form = self.mimetype == "application/x-www-form-urlencoded"
        return Values(self.data.decode("utf-8") if form else "")

    @property
    def files(self) -> Values:
        # Only multipart forms have files.
        return self.form if self.mimetype == "multipart/form-data" else Values("")

    def get_data(self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False) -> Any:
        return self.data.decode("utf-8") if as_text else self.data

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        try:
            if not (force or self.is_json):
                raise ValueError("the request's content type is not application/json")
            return json.loads(self.data)
        except ValueError:
            if silent:
                return None
            raise


class PlainResponse:
    """An answer, where there is neither Flask nor werkzeug."""

    def __init__(
        self, response: Any = b"", status: int = 200, headers: Any = None, mimetype: str | None = None
    ) -> None:
        self.data = response.encode() if isinstance(response, str) else bytes(response)
        self.status_code = status
        given = headers.items() if hasattr(headers, "items") else headers or ()
        self.headers = Headers(given)
        if mimetype is not None:
            self.mimetype = mimetype

    @property
    def mimetype(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0]

    @mimetype.setter
    def mimetype(self, value: str) -> None:
        self.headers["Content-Type"] = value

    content_type = mimetype

    def get_data(self) -> bytes:
        return self.data if isinstance(self.data, bytes) else str(self.data).encode()


def available(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def request_class() -> type:
    if available("flask"):
        import flask

        return flask.Request
    if available("werkzeug"):
        from werkzeug.wrappers import Request as WerkzeugRequest

        return WerkzeugRequest
    return PlainRequest


def response_class() -> type:
    base: Any = PlainResponse
    if available("flask"):
        from flask import Response as base
    elif available("werkzeug"):
        from werkzeug.wrappers import Response as base

    class AMLResponse(base):  # type: ignore[misc]
        """What run() gives back: a body, a status, headers. `json_str` writes the message as JSON."""

        def __init__(
            self, message: Any, status_code: int = 200, response_headers: Any = None, json_str: bool = False
        ) -> None:
            kind = "application/octet-stream" if isinstance(message, (bytes, bytearray)) else "text/plain"
            if json_str or isinstance(message, (dict, list)):
                message, kind = json.dumps(message), "application/json"
            super().__init__(message, status=status_code, headers=response_headers or None)
            if not any(name.lower() == "content-type" for name in dict(response_headers or {})):
                self.mimetype = kind

    return AMLResponse


class Provider:
    """Finds the modules that nobody else found. Last in `sys.meta_path`."""

    def __init__(self) -> None:
        packages = {package[:end] for package in PACKAGES for end in ends(package)}
        self._contents: dict[str, Callable[[], dict[str, Any]]] = dict.fromkeys(packages, dict)
        for name in REQUEST_MODULES:
            self._contents[name] = lambda: {"AMLRequest": request_class(), "rawhttp": rawhttp}
        for name in RESPONSE_MODULES:
            self._contents[name] = lambda: {"AMLResponse": response_class()}
        self._packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in self._contents:
            return None
        return ModuleSpec(name, self, is_package=name in self._packages)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__.update(self._contents[module.__name__]())


def ends(name: str) -> list[int]:
    """Where the dotted name and each of its parents end."""
    return [position for position, letter in enumerate(name) if letter == "."] + [len(name)]


def provide() -> None:
    sys.meta_path.append(Provider())


def wants_raw(run: Any) -> bool:
    """Whether run() was decorated with a rawhttp, ours or that of an installed package.

    What a package's decorator does is its own affair; it is known by what it does to any function: the
    attributes that it sets, or the function that it puts around.
    """
    chain = [run]
    while hasattr(chain[-1], "__wrapped__") and len(chain) < 100:
        chain.append(chain[-1].__wrapped__)
    for name in REQUEST_MODULES:
        decorator = getattr(sys.modules.get(name), "rawhttp", None)
        if decorator is None:
            continue

        def probe(request: Any) -> None: ...

        marked = decorator(probe)
        names = set(getattr(marked, "__dict__", ())) - {"__wrapped__"}
        code = getattr(marked, "__code__", None) if marked is not probe else None
        for function in chain:
            if names and names <= set(getattr(function, "__dict__", ())):
                return True
            if code is not None and getattr(function, "__code__", None) is code:
                return True
    return False


def environ(request: Request) -> dict[str, Any]:
    """The request as WSGI has it; takes the body."""
    body = request.take()
    host, _, port = request.headers.get("Host", "localhost").partition(":")
    found: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "SERVER_NAME": host or "localhost",
        "SERVER_PORT": port if port.isdigit() else "443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name in request.headers:
        key = "HTTP_" + name.upper().replace("-", "_")
        if key not in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"):
            found[key] = request.headers[name]
    return found


def opener(folder: str) -> Callable[[Request], contextlib.AbstractContextManager[Any]]:
    """How to make the object that a raw run() is called with; Flask's is its current one meanwhile."""
    if available("flask"):
        import flask

        app = flask.Flask("amlocal_scorer", root_path=folder)

        @contextlib.contextmanager
        def in_flask(request: Request) -> Iterator[Any]:
            with app.request_context(environ(request)):
                yield flask.request._get_current_object()  # type: ignore[attr-defined]

        return in_flask

    make: Callable[[Request], Any] = PlainRequest
    if available("werkzeug"):
        from werkzeug.wrappers import Request as WerkzeugRequest

        def make(request: Request) -> Any:
            return WerkzeugRequest(environ(request))

    @contextlib.contextmanager
    def alone(request: Request) -> Iterator[Any]:
        yield make(request)

    return alone


def decorated_schema(run: Any) -> Any:
    """The package inference-schema's view of run(), if the script uses it: its `schema_util`, else None."""
    util = sys.modules.get("inference_schema.schema_util")
    return util if util is not None and util.is_schema_decorated(run) else None


__all__: Sequence[str] = ("decorated_schema", "opener", "provide", "rawhttp", "wants_raw")
