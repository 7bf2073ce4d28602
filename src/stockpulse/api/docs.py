"""The interactive documentation of the API, served from here: it works without internet."""

from typing import Final

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse

_ASSETS: Final = "/static/docs"


def install(app: FastAPI) -> None:
    """Serve Swagger UI at /docs and ReDoc at /redoc; create `app` with docs_url=None, redoc_url=None.

    Install it before anything is mounted at /static, which would hide the assets.
    """
    # Only the files of that package are wanted; StaticFiles finds them without importing it.
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
    """Where a proxy in front of us shows the app."""
    return str(request.scope.get("root_path", "")).rstrip("/")
