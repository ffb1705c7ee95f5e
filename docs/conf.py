"""The site's settings, and how links between the repository's texts become links of the site.

Every text works twice: as a file of the repository and as a page. ARCHITECTURE.md and the other READMEs stay where they
are, and pages include them. So links are written for the repository, relative to the file they stand in. Here each is
rewritten: to the page that includes its target, or to plain text if the target is source code, which has no page. A
link to a file that does not exist is a warning, and `make docs` treats warnings as errors.
"""  # noqa: INP001 - a configuration file, not a module of a package

import os
import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

project = "Penstock"
extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
# Pygments reads a console block line by line, so it does not understand a quoted body of several lines.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = "Penstock"
html_static_path = ["_static"]
html_css_files = ["penstock.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False

myst_heading_anchors = 4
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_here_doc_delimiter = "EOF"
copybutton_line_continuation_character = "\\"

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index",
    "ARCHITECTURE.md": "architecture",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "bench/README.md": "performance",
    "bench/kinds.md": "kinds",
    "examples/images/README.md": "images-example",
    "examples/users/README.md": "users-example",
    "infra/README.md": "operating",
}

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_log = logging.getLogger("penstock.docs")


def setup(app: Sphinx) -> None:
    app.connect("source-read", _read_page)
    app.connect("include-read", _read_included)


def _read_page(_app: Sphinx, page: str, content: list[str]) -> None:
    content[0] = _with_links_of_the_site(content[0], REPOSITORY / "docs" / f"{page}.md")


def _read_included(app: Sphinx, path: Path, _page: str, content: list[str]) -> None:
    content[0] = _with_links_of_the_site(content[0], (Path(app.srcdir) / path).resolve())


def _with_links_of_the_site(text: str, file: Path) -> str:
    return _LINK.sub(lambda link: _link_of_the_site(file, *link.groups()), text)


def _link_of_the_site(file: Path, mark: str, words: str, target: str) -> str:
    path, _, anchor = target.partition("#")
    if ":" in path or not path:
        return f"{mark}[{words}]({target})"
    found = Path(os.path.normpath(file.parent / path))
    name = found.relative_to(REPOSITORY).as_posix()
    if not found.exists():
        _log.warning("there is no file %s for the link to %s", name, target, location=str(file))
    if mark:
        return f"![{words}]({os.path.relpath(found, REPOSITORY / 'docs')})"
    page = f"{PAGES[name]}.md" if name in PAGES else found.name if name.startswith("docs/") else None
    if page is None:
        return words
    return f"[{words}]({page}{'#' if anchor else ''}{anchor})"
