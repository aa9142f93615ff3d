"""The pictures of the pages in docs/: of a lab's page the first figure of each section, and the
ledgers of forecasts that lie in docs/measured/.

.venv/bin/python docs/pictures.py LAB
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import sync_playwright

from windtunnel.plan.calibration import calibration
from windtunnel.report.blocks import Chart
from windtunnel.report.forecasts import outcomes_figure
from windtunnel.report.html import Writer
from windtunnel.report.page import whole, write_page

_BROWSER = "/usr/bin/chromium"
_WIDTH = 960
_HERE = Path(__file__).parent / "pictures"
# by the anchor of a section, the name of its picture; a plan has the plan's name in its anchor
_SECTIONS = ("check", "search", "transfer", "batch", "scaling", "plan", "dynamics", "ablate")
_MOST = 150_000  # bytes
_MEASURED = Path(__file__).parent / "measured"
_LEDGERS = {
    "chinese": "Chinese verse",
    "email": "mail",
    "manuals": "manuals",
    "dictionary": "a dictionary",
    "c": "C code",
}


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
        _keep(_ledgers(tab), _HERE / "readme.png")
        browser.close()


def _ledgers(tab: Any) -> bytes:
    """The ledgers of forecasts that lie in the repository, as the README shows them."""
    figures = []
    for name, what in _LEDGERS.items():
        with TemporaryDirectory() as lab:
            shutil.copy(_MEASURED / f"{name}-forecasts.jsonl", Path(lab) / "forecasts.jsonl")
            found = calibration(Path(lab))
        opened = [one for one in found.forecasts if one.outcome]
        title = f"{what}: {found.all.inside90} of {found.all.count} inside the 90% interval"
        figures.append(outcomes_figure(opened, title))
    writer = Writer()
    body = '<button id="theme" hidden></button>' + writer.block(Chart("", figures))
    with TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(whole("forecasts", body, writer), encoding="utf-8")
        tab.goto(page.as_uri())
        _draw(tab, tab.locator(".plots"))
        return tab.locator(".plots").screenshot()


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
