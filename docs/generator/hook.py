"""Fill in the pages while MkDocs builds the site.

MkDocs calls the functions whose names begin with `on_`. A page may hold

    <!-- insert: NAME -->     on a line of its own: a table or text of docs.generator.inserts
    {{ NAME }}                within a sentence: a figure of docs.generator.figures

and links to files of the repository outside docs/. Those files are copied into the site, under files/.
"""

import posixpath
import re
from functools import partial
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from docs.generator.pages import ROOT, PageError, fill

DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
SHOWN_BY_BROWSERS = (".json", ".csv", ".png", ".txt")
_filled: dict[str, str] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Fill in all pages, and add the files of the repository that they link to."""
    for page in list(files.documentation_pages()):
        try:
            text = fill(page.content_string)
        except PageError as error:
            raise PluginError(f"{page.src_uri}: {error}") from error
        _filled[page.src_uri] = LINK.sub(partial(_link, page=page, files=files, config=config), text)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page's text with everything filled in."""
    text = _filled[page.file.src_uri]
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)


def _link(match: re.Match[str], page: File, files: Files, config: MkDocsConfig) -> str:
    """Return a link that works on the site; one to a folder of the repository becomes a link to nothing."""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.src_uri), match[2]))
    path = ROOT / target
    if path.is_relative_to(DOCS):
        return match[0]
    if not path.is_file():
        raise PluginError(f"{page.src_uri}: a link to {target}, which is no file of the repository")
    name = f"files/{target}" + ("" if path.suffix in SHOWN_BY_BROWSERS else ".txt")
    if files.get_file_from_path(name) is None:
        files.append(File.generated(config, name, abs_src_path=str(Path(path))))
    return match[1] + posixpath.relpath(name, posixpath.dirname(page.src_uri)) + (match[3] or "")
