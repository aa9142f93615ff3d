"""A written page as tests read it: what it would load, what it shows, its figures; and a browser to
open it with.
"""

import base64
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

BROWSER = "/usr/bin/chromium"
LOADING = {"src", "srcset", "data", "poster", "action", "background"}
needs_browser = pytest.mark.skipif(
    not os.path.exists(BROWSER), reason=f"no browser: {BROWSER} is not on this machine"
)


class Page(HTMLParser):
    """What a page would load, what it shows as text, its scripts and its figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.shown, self.styles = "", ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
        for key, value in attrs:
            if key == "href" and tag == "a":
                self.links.append(value or "")
            elif key in LOADING or key == "href":
                self.loaded.append(f"{tag} {key}={value}")
            if key == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "style":
            self.styles += data
        else:
            self.shown += data

    def figures(self) -> list[list[dict[str, Any]]]:
        """The traces of each figure."""
        packed = self.scripts[0].translate(str.maketrans(",", "<"))
        found = json.loads(zlib.decompress(base64.b85decode(packed)))
        return [figure["data"] for figure in found]


def read_page(file: Path) -> Page:
    """The page in a file."""
    return Page(file.read_text(encoding="utf-8"))


Browsing = Callable[..., AbstractContextManager[tuple[Any, list[str], list[str]]]]


@contextmanager
def browser() -> Iterator[Browsing]:
    """One browser. What is called opens a tab that knows nothing of those before it: the tab, all
    that its console says, and all that it asks for.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])

        @contextmanager
        def browsing(**context: Any) -> Iterator[tuple[Any, list[str], list[str]]]:
            said: list[str] = []
            asked: list[str] = []
            with started.new_context(**context) as own:
                tab = own.new_page()
                tab.on("console", lambda line: said.append(line.text))
                tab.on("pageerror", lambda error: said.append(str(error)))
                tab.on("request", lambda one: asked.append(re.sub(r"^(.{200}).*", r"\1", one.url)))
                yield tab, said, asked

        yield browsing
        started.close()


def draw_all(tab: Any) -> None:
    """Unfold and scroll until every figure of the page is drawn."""
    tab.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    for place in tab.locator(".plot[data-figure]").all():
        place.scroll_into_view_if_needed()
    tab.wait_for_function(
        "[...document.querySelectorAll('.plot[data-figure]')].every((one) => one.dataset.drawn)"
    )


def barriers(tab: Any) -> list[str]:
    """What axe finds on the open page that shuts somebody out, a line each. Skips where axe is not
    installed.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not here")
    found = axe.Axe().run(tab).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:160]}"
        for one in found
        for node in one["nodes"]
    ]
