"""The scoring plane, a process of its own: HTTPS on loopback, from an endpoint's URI to a scorer process.

`python -m amlocal.emulator.endpoints.router --routes FILE --port P --cert F --key F --public-key F
--audience A [--auth loose]`

It knows only the route table, reads it again when it changes, and may be killed and started at any time.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import socket
import sys
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from amlocal.compat.tokens import TokenVerifier
from amlocal.emulator.endpoints.callers import Credentials
from amlocal.emulator.endpoints.scoring_app import DEFAULT_MAX_BODY, Router
from amlocal.emulator.processes import watch_leash
from amlocal.emulator.secrets import TOKEN_ISSUER

KEEP_ALIVE_SECONDS = 75
BACKLOG = 512
# How long a client may take to read the end of its answer and to close, once the router is to end.
FAREWELL_SECONDS = 2.0
# A request's line and headers together, in bytes.
MAX_HEAD = 64 * 1024

log = logging.getLogger("amlocal.router")


class Protocol(HttpToolsProtocol):
    """uvicorn's, with a limit to what a client may send before its headers end, and to its farewell.

    A TLS connection is closed when both sides have said so. Clients keep connections for later requests and
    do not look at them meanwhile: asyncio would wait 30 s for each, and the router could not end.
    """

    _head = 0
    _in_head = True
    _ending = False

    def shutdown(self) -> None:
        self._ending = True
        super().shutdown()
        self._part()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._part()

    def _part(self) -> None:
        if self._ending and self.transport.is_closing():
            self.loop.call_later(FAREWELL_SECONDS, self.transport.abort)

    def on_message_begin(self) -> None:
        self._head, self._in_head = 0, True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        if self._in_head and self._head > MAX_HEAD:
            return  # answered already
        super().data_received(data)
        self._head += len(data)
        if self._in_head and self._head > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response(f"The request's headers have more than {MAX_HEAD} bytes.")


def listen(port: int) -> socket.socket:
    """A listener on loopback; port 0 takes a free one."""
    # asyncio switches Nagle's algorithm off only where the protocol is named; else answers take 40 ms more.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(BACKLOG)
    return listener


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="amlocal.emulator.endpoints.router", description=__doc__)
    parser.add_argument("--routes", type=Path, required=True, help="the route table")
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one and prints it")
    parser.add_argument("--cert", required=True, help="certificate chain, PEM")
    parser.add_argument("--key", required=True, help="its key, PEM")
    parser.add_argument("--public-key", type=Path, required=True, help="of the issuer of tokens, PEM")
    parser.add_argument(
        "--audience", action="append", default=[], help="one of users' tokens; may be repeated"
    )
    parser.add_argument(
        "--auth", choices=["strict", "loose"], default="strict", help="loose accepts any bearer"
    )
    parser.add_argument("--max-body", type=int, default=DEFAULT_MAX_BODY, help="bytes")
    parser.add_argument("--seed", type=int, help="makes the choice between deployments repeatable")
    options = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    watch_leash()
    verifier = TokenVerifier(options.public_key.read_bytes(), TOKEN_ISSUER)
    listener = listen(options.port)
    port = listener.getsockname()[1]
    router = Router(
        options.routes,
        Credentials(verifier, options.audience, loose=options.auth == "loose"),
        port=port,
        max_body=options.max_body,
        rng=random.Random(options.seed),
    )
    config = uvicorn.Config(
        router.app,
        http=Protocol,
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=options.cert,
        ssl_keyfile=options.key,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=30,
    )
    log.info("router on https://localhost:%d (process %d)", port, os.getpid())
    uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
