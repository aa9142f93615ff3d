"""The live page: what it answers and what it refuses, a planner that says what `windtunnel plan`
says, and runs that move.
"""

import http.client
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pages import Browsing, barriers, draw_all, needs_browser
from plan_labs import with_study

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.report.app import address, request_of, serve
from windtunnel.results.run import Score, StepLine
from windtunnel.train.run import create

ASKED = ("flops=1e11", "hours=0.01&device=h100&gpus=2", "params=30k&tokens=500k", "tokens=1M")


@pytest.fixture(scope="module")
def served(make_lab: Callable[[], Any]) -> Iterator[tuple[Any, ThreadingHTTPServer]]:
    """A lab with a corpus and a scaling study, and its server with the laws fitted."""
    lab = make_lab()
    with_study(lab.path)
    server = serve(lab.path, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.RequestHandlerClass.app.wait()  # type: ignore[attr-defined]
    yield lab, server
    server.shutdown()
    server.server_close()


def ask(
    server: ThreadingHTTPServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, str]:
    port = server.server_address[1]
    line = http.client.HTTPConnection("127.0.0.1", port)
    line.request(method, path, headers=headers)
    answer = line.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.parametrize("query", ASKED)
def test_the_planner_says_what_the_command_says(
    served: tuple[Any, ThreadingHTTPServer], query: str
) -> None:
    lab, server = served
    status, text = ask(server, f"/plan.json?{query}")
    options = [part for pair in query.split("&") for part in pair.split("=")]
    options[::2] = [f"--{name}" for name in options[::2]]
    done = lab.run("plan", *options, "--json")
    assert status == 200 and done.returncode in (0, 1), done.stderr
    said, planned = json.loads(text), json.loads(done.stdout)
    assert planned.pop("forecast") and "forecast" not in said, "nothing is sealed by looking"
    assert said == planned
    shutil.rmtree(lab.path / "plans")
    (lab.path / "forecasts.jsonl").unlink()


def test_laws_that_are_being_fitted_are_no_fault_of_who_asks(
    served: tuple[Any, ThreadingHTTPServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser would write it into its console, twice a second."""
    server = served[1]
    held = threading.Event()
    monkeypatch.setattr(
        server.RequestHandlerClass.app, "_fitting", threading.Thread(target=held.wait)
    )  # type: ignore[attr-defined]
    server.RequestHandlerClass.app._fitting.start()  # type: ignore[attr-defined]
    status, text = ask(server, "/plan.json?flops=1e11")
    held.set()
    assert status == 202 and "being fitted" in json.loads(text)["error"]
    assert ask(server, "/plan.json?flops=no")[0] == 400


@pytest.mark.parametrize(
    "query", ["", "flops=nan", "flops=-1", "hours=1", "flops=1e11&device=gpuu", "size=3", "gpus=2"]
)
def test_a_request_that_nothing_satisfies_is_one_line(
    served: tuple[Any, ThreadingHTTPServer], query: str
) -> None:
    status, text = ask(served[1], f"/plan.json?{query}")
    assert status == 400 and "\n" not in json.loads(text)["error"]


def test_looking_changes_nothing(served: tuple[Any, ThreadingHTTPServer]) -> None:
    lab, server = served
    before = lab.files()
    for path in ("/", "/live.json", "/plan.json?flops=1e11", "/plotly.js"):
        assert ask(server, path)[0] == 200
    assert lab.files() == before


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_it_answers_nothing_but_get(served: tuple[Any, ThreadingHTTPServer], method: str) -> None:
    assert ask(served[1], "/", method)[0] == 501


@pytest.mark.parametrize("path", ["/../recipe.toml", "/etc/passwd", "/runs", "/%2e%2e/"])
def test_there_is_nothing_else(served: tuple[Any, ThreadingHTTPServer], path: str) -> None:
    assert ask(served[1], path)[0] == 404


def test_a_page_of_somebody_else_can_not_read_it(
    served: tuple[Any, ThreadingHTTPServer],
) -> None:
    """Whose own name was made to lead to this machine."""
    assert ask(served[1], "/", Host="evil.example")[0] == 403
    assert ask(served[1], "/live.json", Host="localhost:8420")[0] == 200


def test_bound_elsewhere_it_asks_for_its_token(make_lab: Callable[[], Any]) -> None:
    server = serve(make_lab().path, "0.0.0.0", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    token = address(server).partition("?token=")[2]
    assert len(token) > 15
    assert ask(server, "/")[0] == ask(server, "/?token=wrong")[0] == 403
    assert ask(server, f"/live.json?token={token}")[0] == 200
    server.shutdown()
    server.server_close()


def test_a_port_that_is_taken_is_one_line(served: tuple[Any, ThreadingHTTPServer]) -> None:
    with pytest.raises(InputError, match="--port"):
        serve(served[0].path, "127.0.0.1", served[1].server_address[1])


def test_the_controls_have_the_names_of_the_options() -> None:
    request = request_of({"flops": "1e15", "hours": " ", "tokens": "20M", "gpus": "8"})
    assert (request.flops, request.hours, request.tokens, request.devices) == (
        1e15,
        None,
        20_000_000,
        8,
    )


def test_nothing_of_it_imports_torch() -> None:
    code = (
        "import sys, windtunnel.report.app; "
        "assert not {'torch', 'transformers', 'optuna'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_trains_now_moves(
    served: tuple[Any, ThreadingHTTPServer], stem: Callable[..., Recipe]
) -> None:
    lab, server = served
    run = create(lab.path, stem(6400), Corpus.open(lab.path / "corpora" / "tiny"))
    assert json.loads(ask(server, "/live.json")[1]) == {"runs": [], "figure": None}
    step = StepLine(tokens=128, loss=5.5, lr=0.01, grad_norm=1.0, tokens_per_s=6272, peak_share=0.1)
    with run.lock(), (run.path / "metrics.jsonl").open("a") as metrics:
        run.write_status("running", 0)
        print(step.to_json(), file=metrics, flush=True)
        (row,) = json.loads(ask(server, "/live.json")[1])["runs"]
        assert row == [run.id, "tiny", "128 of 6.4k", "5.5000", "6.27k tokens/s", "0.0167 minutes"]
        later = step.model_copy(update={"tokens": 256, "loss": 5.25})
        print(later.to_json(), file=metrics, flush=True)
        found = json.loads(ask(server, "/live.json")[1])
        assert found["runs"][0][2:4] == ["256 of 6.4k", "5.2500"]
        assert found["figure"]["data"]
    assert json.loads(ask(server, "/live.json")[1])["runs"] == [], "its process is gone"
    shutil.rmtree(run.path)


def test_the_report_is_made_anew_where_the_lab_holds_something_new(
    served: tuple[Any, ThreadingHTTPServer], stem: Callable[..., Recipe]
) -> None:
    lab, server = served
    first = ask(server, "/")[1]
    assert ask(server, "/")[1] == first
    run = create(
        lab.path,
        stem(6400).change(name="a new one", seed=5),
        Corpus.open(lab.path / "corpora" / "tiny"),
    )
    begun = ask(server, "/")[1]
    assert "a new one" not in first and "a new one" in begun and "9.8765" not in begun
    run.write_status("done", 6400, Score(loss=9.8765, bits_per_byte=2.0, tokens=1))
    assert "9.8765" in ask(server, "/")[1], "a run that ended"
    shutil.rmtree(run.path)


@needs_browser
def test_a_browser_moves_the_planner(
    served: tuple[Any, ThreadingHTTPServer], browsing: Browsing
) -> None:
    server = served[1]
    with browsing(viewport={"width": 390, "height": 800}) as (tab, said, asked):
        tab.goto(address(server))
        tab.fill("[name=flops]", "1e11")
        tab.wait_for_selector("#plan-command:has-text('--flops 1e11')")
        tab.wait_for_selector("[data-of='verdict']")
        plan = json.loads(ask(server, "/plan.json?flops=1e11")[1])
        assert tab.inner_text("[data-of='loss, nats/token']") == f"{plan['loss']:.4f}"
        tab.fill("[name=params]", "40k")
        tab.wait_for_selector("#plan-command:has-text('--params 40k')")
        assert tab.inner_text("#plan-command").endswith(f" --lab {served[0].path}")
        inside = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert tab.evaluate(inside) and said == []
        assert all(one.startswith(address(server)) for one in asked)


@needs_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nobody_is_shut_out_while_a_run_trains(
    served: tuple[Any, ThreadingHTTPServer],
    stem: Callable[..., Recipe],
    browsing: Browsing,
    theme: str,
    width: int,
) -> None:
    lab, server = served
    run = create(lab.path, stem(6400), Corpus.open(lab.path / "corpora" / "tiny"))
    step = StepLine(tokens=128, loss=5.5, lr=0.01, grad_norm=1.0, tokens_per_s=6272, peak_share=0.1)
    seen = {"width": width, "height": 800}
    with (
        run.lock(),
        (run.path / "metrics.jsonl").open("a") as metrics,
        browsing(color_scheme=theme, viewport=seen, bypass_csp=True) as (tab, _, _),
    ):
        run.write_status("running", 0)
        for tokens in (128, 256):
            print(step.model_copy(update={"tokens": tokens}).to_json(), file=metrics, flush=True)
        tab.goto(address(server))
        tab.wait_for_selector("#now-curves .main-svg")
        tab.wait_for_selector("[data-of='verdict']")
        draw_all(tab)
        assert barriers(tab) == []
        tab.fill("[name=flops]", "many")
        tab.wait_for_selector("#plan-says:has-text('expected a number')")
        assert barriers(tab) == []
    shutil.rmtree(run.path)


def test_a_lab_that_is_not_there_is_refused(tmp_path: Path) -> None:
    code = "from windtunnel.cli import main; main()"
    command = [sys.executable, "-c", code, "ui", "--lab", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "there is no such lab" in done.stderr
