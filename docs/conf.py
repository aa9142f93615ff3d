"""The site of these pages: `make site` writes it to build/site. README.md is its first page, and
what it lists at its end, in that order, are its contents.

Nothing is fetched: neither while the site is made, nor by its pages.
"""

import re
import shutil
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_FIRST = "README"
_LIST = "## Where to read on"  # a heading of it

project = "windtunnel"
extensions = ["myst_parser"]
root_doc = _FIRST
include_patterns = ["*.md", "docs/*.md"]
# The pages lie beside the code and, in a checkout in use, beside labs of thousands of files.
exclude_patterns = [
    path.name for path in _ROOT.iterdir() if path.is_dir() and path.name != "docs"
] + ["docs/measured", "docs/pictures"]

myst_heading_anchors = 4
html_theme = "furo"
html_title = project
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False


def setup(app: Any) -> None:
    """What Sphinx calls first."""
    app.connect("source-read", _add_contents)
    app.connect("build-finished", _add_index)


def _add_contents(app: Any, page: str, source: list[str]) -> None:
    """Behind the first page, what it lists once more, as Sphinx makes a sidebar of it."""
    if page == _FIRST:
        listed = re.findall(r"\]\(([\w/-]+)\.md\)", source[0].split(_LIST)[1])
        source[0] += "\n".join(["\n```{toctree}", ":hidden:", "", *listed, "```\n"])


def _add_index(app: Any, fault: Exception | None) -> None:
    """A folder is opened at index.html."""
    if fault is None:
        shutil.copy(Path(app.outdir) / f"{_FIRST}.html", Path(app.outdir) / "index.html")
