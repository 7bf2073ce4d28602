"""The interactive documentation of the API, served from here: it works without internet and without inline scripts."""

from html import escape
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from starlette.responses import FileResponse, HTMLResponse

from stockpulse.api import manual
from stockpulse.api.browser_headers import policy

_ASSETS: Final = "/static/docs"
_START: Final = Path(__file__).with_name("docs.js")
_DESCRIPTION: Final = "How to use it, page by page: [the manual](manual)."
_HEADERS: Final = policy(
    script_src="'self'",
    style_src="'self' 'unsafe-inline'",  # both pages make their style elements while they run
    img_src="'self' data:",
    connect_src="'self'",
    worker_src="blob:",  # the search of ReDoc
)

_SWAGGER_UI: Final = """<link rel="stylesheet" href="{here}/static/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{here}/static/docs/swagger-ui-bundle.js"></script>
<script src="{here}/docs/docs.js" data-document="{document}"></script>
"""
_REDOC: Final = """</head>
<body style="margin: 0">
<noscript>ReDoc needs JavaScript.</noscript>
<redoc spec-url="{document}"></redoc>
<script src="{here}/static/docs/redoc.standalone.js"></script>
"""


def install(app: FastAPI) -> None:
    """Serve Swagger UI at /docs, ReDoc at /redoc, the manual at /manual.

    Create `app` with docs_url=None and redoc_url=None.
    Call this before anything is mounted at /static, which would hide the assets.
    """
    # StaticFiles finds the files of the package without importing it, which would load much more.
    app.description = app.description or _DESCRIPTION
    manual.install(app)
    app.mount(_ASSETS, StaticFiles(packages=[("fastapi_offline", "static")]), name="docs-assets")
    add_pages(app)

    @app.get("/docs/docs.js", include_in_schema=False)
    async def start() -> FileResponse:
        return FileResponse(_START)


def add_pages(app: FastAPI, prefix: str = "") -> None:
    """Serve the two pages of the document of `app` at `prefix`/docs and `prefix`/redoc."""

    @app.get(f"{prefix}/docs", include_in_schema=False)
    async def swagger_ui(request: Request) -> HTMLResponse:
        return _page(request, _SWAGGER_UI)

    @app.get(f"{prefix}/redoc", include_in_schema=False)
    async def redoc(request: Request) -> HTMLResponse:
        return _page(request, _REDOC)


def _page(request: Request, content: str) -> HTMLResponse:
    """Return a page; its addresses begin with the path prefix under which a proxy serves the app."""
    app = request.app
    here = escape(str(request.scope.get("root_path", "")).rstrip("/"))
    filled = content.format(here=here, document=f"{here}{app.openapi_url}")
    document = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(app.title)}</title>
<link rel="icon" href="{here}/static/docs/favicon.png">
{filled}</body>
</html>
"""
    return HTMLResponse(document, headers=_HEADERS)
