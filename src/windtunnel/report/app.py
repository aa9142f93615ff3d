"""The live page of a lab: the report with what trains now, and a planner. It only reads, and
answers nothing but GET. The standard library serves it: it has one reader, on this machine, and
so needs nothing that the lab's page does not have already.
"""

import contextlib
import hmac
import json
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from plotly.offline import get_plotlyjs

from windtunnel.devices import device_named
from windtunnel.errors import InputError
from windtunnel.plan.planner import Planner
from windtunnel.plan.request import Request
from windtunnel.report.live import now, part
from windtunnel.report.page import document
from windtunnel.report.view import LabView
from windtunnel.tunnel.design import TOKENS

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ALLOWED = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


Stamp = tuple[tuple[str, int], ...]


class Fitting(InputError):
    """There is no answer yet, and nothing was wrong with the question."""


def stamp_of(lab: Path) -> Stamp:
    """When each part of the lab was written last: another one, another page."""
    files = [lab / "runs", lab / "forecasts.jsonl"]
    files += lab.glob("studies/*/result.json")
    files += lab.glob("plans/*/plan.json")
    stamps = [(str(file), file.stat().st_mtime_ns) for file in files if file.exists()]
    return (*stamps, ("statuses", _newest_status(lab / "runs")))


def _newest_status(runs: Path) -> int:
    """When a run began, was validated or ended last."""
    newest = 0
    try:
        for folder in os.scandir(runs):
            with contextlib.suppress(OSError):  # what is no run has none
                newest = max(newest, os.stat(f"{folder.path}/status.json").st_mtime_ns)
    except OSError:  # no run yet
        pass
    return newest


class App:
    """What the live page of a lab answers. The laws are fitted once, in the background, and the
    report is made anew only where the lab holds something new: what trains is read each time.
    """

    def __init__(self, lab: Path, token: str = "") -> None:
        self.lab = lab
        self.token = token
        self._planner: Planner | None = None
        self._fault = ""
        self._pages = threading.Lock()
        self._page: tuple[Stamp, str] | None = None
        self._fitting = threading.Thread(target=self._fit, daemon=True)
        self._fitting.start()

    def page(self) -> str:
        """The whole page."""
        with self._pages:
            stamp = stamp_of(self.lab)
            if self._page is None or self._page[0] != stamp:
                view = LabView(self.lab)
                self._page = stamp, document(view, part(view))
            return self._page[1]

    def live(self) -> str:
        """What moves, as JSON."""
        return json.dumps(now(self.lab))

    def plan(self, asked: Mapping[str, str]) -> str:
        """A plan as `windtunnel plan --json` prints it. Raises InputError."""
        request = request_of(asked)
        if self._fitting.is_alive():
            raise Fitting("the laws are being fitted; they are fitted once, and then kept")
        if self._planner is None:
            raise InputError(self._fault)
        return self._planner.answer(request).to_json()

    def wait(self) -> None:
        """Until the laws are fitted."""
        self._fitting.join()

    def _fit(self) -> None:
        self.page()  # first: a fit takes the processor from whoever waits for a page
        try:
            self._planner = Planner.of(self.lab)
        except InputError as error:
            self._fault = str(error)


def serve(lab: Path, host: str, port: int) -> ThreadingHTTPServer:
    """A server that is bound, and is yet to be told to serve; port 0 takes any free one. Where it
    is not bound to this machine alone, every question needs its token. Raises InputError where the
    address can't be had.
    """
    app = App(lab, "" if host in LOOPBACK else secrets.token_urlsafe(16))

    class Handler(_Handler):
        pass

    Handler.app = app
    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror or error}") from None
    server.daemon_threads = True
    return server


def address(server: ThreadingHTTPServer) -> str:
    """What to open, the token among it."""
    host, port = server.server_address[:2]
    token = server.RequestHandlerClass.app.token  # type: ignore[attr-defined]
    shown = f"[{host}]" if ":" in str(host) else host
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def request_of(asked: Mapping[str, str]) -> Request:
    """What the page's controls ask for, by the names of the options of `windtunnel plan`. Raises
    InputError.
    """
    given = {name: value.strip() for name, value in asked.items() if value.strip()}
    unknown = set(given) - {"flops", "hours", "device", "gpus", "params", "tokens", "epochs"}
    if unknown:
        raise InputError(f"{min(unknown)}: no control of the planner has this name")

    def tokens(name: str) -> int | None:
        return TOKENS.parse(name, given[name]) if name in given else None

    return Request(
        flops=_number(given, "flops"),
        hours=_number(given, "hours"),
        device=device_named(given["device"], "device").name if "device" in given else None,
        devices=tokens("gpus") or 1,
        params=tokens("params"),
        tokens=tokens("tokens"),
        epochs=_number(given, "epochs"),
    )


def _number(given: Mapping[str, str], name: str) -> float | None:
    if name not in given:
        return None
    try:
        value = float(given[name])
    except ValueError:
        value = 0.0
    if not 0 < value < 1e30:
        raise InputError(f"{name} {given[name]}: expected a number above 0")
    return value


class _Handler(BaseHTTPRequestHandler):
    """One question. `app` is set by `serve`."""

    app: App
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        asked = dict(parse_qsl(query, max_num_fields=20))
        if not self._may_ask(asked.pop("token", "")):
            self._send(403, "text/plain", "this address needs its token")
            return
        answers: dict[str, tuple[str, Callable[[], str]]] = {
            "/": ("text/html", self.app.page),
            "/live.json": ("application/json", self.app.live),
            "/plan.json": ("application/json", lambda: self.app.plan(asked)),
            "/plotly.js": ("text/javascript", get_plotlyjs),
            "/favicon.ico": ("image/svg+xml", lambda: ""),
        }
        if path not in answers:
            self._send(404, "text/plain", "there is nothing here")
            return
        kind, answer = answers[path]
        try:
            self._send(200, kind, answer())
        except InputError as error:
            # a browser writes every status from 400 on into its console
            status = 202 if isinstance(error, Fitting) else 400
            self._send(status, "application/json", json.dumps({"error": str(error)}))

    def _may_ask(self, token: str) -> bool:
        """With the token where there is one; else from this machine, under a name of it: a page of
        somebody else's may have its own name lead here.
        """
        if self.app.token:
            return hmac.compare_digest(token.encode(), self.app.token.encode())
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        return name in LOOPBACK

    def _send(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", _ALLOWED)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        kept = "max-age=86400" if kind == "text/javascript" else "no-store"
        self.send_header("Cache-Control", kept)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each look at the page says nothing to anybody."""
