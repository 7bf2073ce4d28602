"""The interactive documentation of the API, served from here: it works without internet."""

from typing import Final

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse

from stockpulse.api import manual

_ASSETS: Final = "/static/docs"
_DESCRIPTION: Final = "How to use it, page by page: [the manual](manual)."


def install(app: FastAPI) -> None:
    """Serve Swagger UI at /docs, ReDoc at /redoc, the manual at /manual.

    Create `app` with docs_url=None and redoc_url=None.
    Call this before anything is mounted at /static, which would hide the assets.
    """
    # StaticFiles finds the files of the package without importing it, which would load much more.
    app.description = app.description or _DESCRIPTION
    manual.install(app)
    app.mount(_ASSETS, StaticFiles(packages=[("fastapi_offline", "static")]), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def swagger_ui(request: Request) -> HTMLResponse:
        here = _prefix(request)
        return get_swagger_ui_html(
            openapi_url=f"{here}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{here}{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{here}{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{here}{_ASSETS}/favicon.png",
            swagger_ui_parameters=app.swagger_ui_parameters,
        )

    @app.get("/redoc", include_in_schema=False)
    async def redoc(request: Request) -> HTMLResponse:
        here = _prefix(request)
        return get_redoc_html(
            openapi_url=f"{here}{app.openapi_url}",
            title=app.title,
            redoc_js_url=f"{here}{_ASSETS}/redoc.standalone.js",
            redoc_favicon_url=f"{here}{_ASSETS}/favicon.png",
            with_google_fonts=False,
        )


def _prefix(request: Request) -> str:
    """Return the path prefix under which a proxy serves the app, or an empty string."""
    return str(request.scope.get("root_path", "")).rstrip("/")
