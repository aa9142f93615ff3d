"""Does the live page move while a tour trains, and does its planner answer as the command does?

    .venv/bin/windtunnel tour --lab LAB &
    .venv/bin/python bench/live.py --lab LAB [--seconds N] [--browser FILE]

Opens `windtunnel ui` in a browser and looks at it for so long: how often the numbers of the runs
that train change, what the console says, what the page asks for. Where the lab has a scaling study
by then, the planner's answers are held against `windtunnel plan --json`. Prints a line for each
look and, last, one JSON list.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from claims import arguments, claim, last_line
from playwright.sync_api import sync_playwright

from windtunnel.report.app import address, serve

EVERY = 10.0  # seconds from look to look
BUDGETS = ("1e12", "5e12")
SAME = ("params", "tokens", "loss", "interval90", "batch_tokens", "lr")


def main() -> None:
    """Look, and print what moved."""
    parser = arguments(__doc__)
    parser.add_argument("--lab", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    asked = parser.parse_args()
    said: list[str] = []
    server = serve(asked.lab, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=asked.browser, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("console", lambda line: said.append(line.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        elsewhere: list[str] = []
        tab.on("request", lambda one: elsewhere.append(one.url))
        tab.goto(address(server))
        looks, moved = watched(tab, asked.seconds)
        wrong = planner(tab, asked.lab)
        browser.close()
    own = (address(server), "data:", "blob:")
    elsewhere = [url for url in elsewhere if not url.startswith(own)]
    last_line(
        [
            claim("looks at numbers that differ from the look before", moved, f"of {looks}"),
            claim("plans unlike the command's", wrong, f"of {len(BUDGETS)}", 0, not wrong),
            claim("lines on the console", len(said), "", 0, not said),
            claim("requests elsewhere", len(elsewhere), "", 0, not elsewhere),
        ]
    )


def watched(tab: Any, seconds: float) -> tuple[int, int]:
    """Looks at which something trained, and how many of them differ from the one before."""
    looks = moved = 0
    before = ""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        now = tab.inner_text("#now-runs")
        print(tab.inner_text("#now-says"), " | ".join(now.splitlines()[1:3]), flush=True)
        if now.strip():
            looks, moved = looks + 1, moved + (now != before)
        before = now
        tab.wait_for_timeout(1000 * EVERY)
    return looks, moved


def planner(tab: Any, lab: Path) -> int:
    """Plans that the page's server tells otherwise than the command."""
    wrong = 0
    for budget in BUDGETS:
        ask = f"fetch('plan.json?flops={budget}').then((it) => it.json())"
        while "being fitted" in (theirs := tab.evaluate(ask)).get("error", ""):
            tab.wait_for_timeout(500)
        command = [str(Path(sys.executable).parent / "windtunnel"), "plan", "--flops", budget]
        done = subprocess.run(
            [*command, "--lab", str(lab), "--json"], stdout=subprocess.PIPE, text=True
        )
        ours = json.loads(done.stdout)
        differing = [key for key in SAME if ours[key] != theirs.get(key)]
        print(f"{budget}: {ours['params']:,} parameters, loss {ours['loss']:.4f}; {differing=}")
        wrong += bool(differing)
    return wrong


if __name__ == "__main__":
    main()
