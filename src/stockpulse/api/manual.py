"""The manual at /manual: pages of Markdown from the package, as HTML that works without internet."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request
from markdown_it import MarkdownIt
from markdown_it.token import Token
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse

from stockpulse.api.browser_headers import policy
from stockpulse.errors import NotFound, shown

FOLDER: Final = Path(__file__).parents[1] / "manual"
"""The pages as they were written; `index.md` lists them in reading order."""

_INDEX: Final = "index"
_LINK: Final = re.compile(r"\]\((?P<page>[a-z-]+)\.md\)")
_MARKDOWN: Final = MarkdownIt("commonmark", {"html": False}).enable("table")
_HEADERS: Final = policy(style_src="'self'", img_src="'self'", base_uri="'self'")


@dataclass(frozen=True)
class Page:
    """One page: the last part of its address, its title, its body as HTML."""

    name: str
    title: str
    body: str


def install(app: FastAPI) -> None:
    """Serve the manual: /manual, /manual/{page} as HTML and /manual/{page}.md as it was written."""

    @app.get("/manual", include_in_schema=False)
    @app.get("/manual/", include_in_schema=False)
    def first_page(request: Request) -> HTMLResponse:
        return _html(_INDEX, request)

    @app.get("/manual/manual.css", include_in_schema=False)
    def style() -> FileResponse:
        return FileResponse(FOLDER / "manual.css")

    @app.get("/manual/{name}.md", include_in_schema=False)
    def markdown(name: str) -> PlainTextResponse:
        return PlainTextResponse(_text(name), media_type="text/markdown", headers=_HEADERS)

    @app.get("/manual/{name}", include_in_schema=False)
    def page(name: str, request: Request) -> HTMLResponse:
        return _html(name, request)


def contents() -> dict[str, list[str]]:
    """Return the page names of each section of the index, in the order of the index."""
    sections = _text(_INDEX).split("\n## ")[1:]
    return {text.partition("\n")[0]: [link["page"] for link in _LINK.finditer(text)] for text in sections}


def _text(name: str) -> str:
    """Return the Markdown of a page. Raises NotFound for an unknown page."""
    if name not in _files():
        raise NotFound(f"the manual has no page {shown(name)}: see /manual")
    return _files()[name]


@cache
def _files() -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}


@cache
def _page(name: str) -> Page:
    return rendered(name, _text(name))


def rendered(name: str, text: str) -> Page:
    """Render a page: headings get an anchor, links lead to where the server has their pages."""
    tokens = _MARKDOWN.parse(text)
    title = next(token.content for token in tokens if token.type == "inline")
    for heading, content in itertools.pairwise(tokens):
        if heading.type == "heading_open":
            heading.attrSet("id", anchor(content.content))
    for token in _within(tokens):
        if token.type == "link_open":
            token.attrSet("href", _served(str(token.attrGet("href")), name))
    return Page(name, title, str(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})))


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as on GitHub, so that links work in both places."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _within(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from token.children or ()


def _served(href: str, page: str) -> str:
    """Return a link for the server: pages without `.md`, relative to /manual/."""
    name, _, place = href.partition("#")
    if not name:
        return f"{page}#{place}"
    if name.endswith(".md") and "/" not in name:
        return name.removesuffix(".md") + (f"#{place}" if place else "")
    return href


def _html(name: str, request: Request) -> HTMLResponse:
    page = _page(name)
    prefix = escape(str(request.scope.get("root_path", "")).rstrip("/"))
    app = escape(request.app.title)
    document = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(page.title)} · {app}</title>
<base href="{prefix}/manual/">
<link rel="stylesheet" href="manual.css">
</head>
<body>
<nav aria-label="Manual">
<p{_here(_INDEX, name)}><a href="{_INDEX}">{escape(_page(_INDEX).title)}</a></p>
<p><a href="../docs">API reference</a></p>
{_menu(name)}</nav>
<main>
{page.body}<p class="source"><a href="{page.name}.md">This page as Markdown</a></p>
</main>
</body>
</html>
"""
    return HTMLResponse(document, headers=_HEADERS)


def _menu(name: str) -> str:
    """Return the list of pages beside page `name`."""
    lines = []
    for section, pages in contents().items():
        lines += [f"<h2>{escape(section)}</h2>", "<ul>"]
        lines += [f'<li{_here(page, name)}><a href="{page}">{escape(_page(page).title)}</a></li>' for page in pages]
        lines += ["</ul>"]
    return "\n".join([*lines, ""])


def _here(one: str, name: str) -> str:
    return ' aria-current="page"' if one == name else ""
