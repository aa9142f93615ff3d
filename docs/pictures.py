"""The pictures of the pages in docs/, from a lab's page: the first figure of each section.

.venv/bin/python docs/pictures.py LAB
"""

import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from windtunnel.report.page import write_page

_BROWSER = "/usr/bin/chromium"
_WIDTH = 960
_HERE = Path(__file__).parent / "pictures"
# by the anchor of a section, the name of its picture; a plan has the plan's name in its anchor
_SECTIONS = ("check", "search", "transfer", "batch", "scaling", "plan")
_MOST = 150_000  # bytes


def main(lab: Path) -> None:
    """Write docs/pictures/*.png. Raises ValueError for one that is too large."""
    page = write_page(lab)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_BROWSER, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": _WIDTH, "height": 900}, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        for name in _SECTIONS:
            heading = f"h2[id^='{name}-']" if name == "plan" else f"h2[id='{name}']"
            place = tab.locator(f"section:has({heading}) figure .plots").first
            if not place.count():
                print(f"{lab}: nothing to show of {name}")
                continue
            _draw(tab, place)
            _keep(place.screenshot(), _HERE / f"{name}.png")
        _keep(_overview(tab), _HERE / "readme.png")
        browser.close()


def _overview(tab: Any) -> bytes:
    """The frontier and the forecast side by side, as the README shows them."""
    tab.evaluate(
        """() => {
          const place = document.createElement("div");
          place.id = "overview";
          place.style = "display:grid;grid-template-columns:1fr 1fr;gap:1rem;background:white";
          for (const name of ["scaling", "plan-"]) {
            const plot = document.querySelector(`section:has(h2[id^='${name}']) figure .plot`);
            const copy = document.createElement("div");
            copy.className = "plot";
            copy.style.height = "400px";
            place.append(copy);
            document.querySelector("main").prepend(place);
            const { data, layout } = themed(figures[plot.dataset.figure]);
            Plotly.newPlot(copy, data, { ...layout, height: 400 }, { displayModeBar: false });
          }
        }"""
    )
    tab.wait_for_timeout(500)
    return tab.locator("#overview").screenshot()


def _draw(tab: Any, place: Any) -> None:
    place.scroll_into_view_if_needed()
    for plot in place.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        tab.wait_for_function("(one) => one.dataset.drawn", arg=plot.element_handle())
    tab.wait_for_timeout(300)


def _keep(picture: bytes, file: Path) -> None:
    if len(picture) > _MOST:
        raise ValueError(f"{file}: {len(picture):,} bytes, and {_MOST:,} are the most")
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(picture)
    print(f"{file}: {len(picture):,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
