"""The site that `make site` writes: every page of docs/ is in it, every link within it leads
somewhere, and nothing of it is fetched from elsewhere.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import Browsing, Page, needs_browser, read_page

ROOT = Path(__file__).parents[1]
MADE = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", "."]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    trees = ["-d", str(folder / "trees")]
    done = subprocess.run(
        [*MADE, *trees, str(folder / "html")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file: read_page(file) for file in site.rglob("*.html")}


def inside(page: Page) -> Iterator[str]:
    """What a page links to or loads, of this site."""
    loaded = [one.partition("=")[2] for one in page.loaded]
    for link in [*page.links, *loaded]:
        if link and not link.startswith(("https://", "http://", "data:", "mailto:")):
            yield link


def test_it_is_made_as_the_makefile_says() -> None:
    command = " ".join(["sphinx-build", *MADE[3:], "build/site"])
    assert command in (ROOT / "Makefile").read_text()


def test_every_page_is_in_it(site: Path, pages: dict[Path, Page]) -> None:
    sources = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    for source in sources:
        assert site / source.relative_to(ROOT).with_suffix(".html") in pages, source
    assert "Train a small language model" in pages[site / "index.html"].shown


def test_every_link_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    missing = []
    for file, page in pages.items():
        for link in inside(page):
            path, _, anchor = link.partition("#")
            target = (file.parent / path.partition("?")[0]).resolve() if path else file
            known = pages[target].ids if target in pages else [anchor]
            if not target.exists() or (anchor and anchor not in known):
                missing.append(f"{file.relative_to(site)}: {link}")
    assert not missing


def test_the_pages_lead_to_each_other(site: Path, pages: dict[Path, Page]) -> None:
    """From the first page, in its order."""
    contents = pages[site / "index.html"].links
    places = [contents.index(f"docs/{name}.html") for name in ("guide", "tunnel", "law")]
    assert places == sorted(places)
    assert "../README.html" in pages[site / "docs/guide.html"].links


def test_it_loads_nothing_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for page in pages.values():
        assert not [one for one in page.loaded if "//" in one]
    for style in site.rglob("*.css"):
        assert "http" not in style.read_text().replace("http://www.w3.org", ""), style


@needs_browser
def test_a_browser_opens_it_from_the_disk(site: Path, browsing: Browsing) -> None:
    phone = {"width": 390, "height": 800}
    with browsing(viewport=phone, offline=True) as (tab, said, asked):
        for name in ("index", "docs/tunnel", "docs/benchmarks"):
            tab.goto((site / f"{name}.html").as_uri())
            assert tab.locator("h1").first.is_visible()
            within = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            assert tab.evaluate(within), name
        assert said == [] and all(one.startswith("file:") for one in asked)
