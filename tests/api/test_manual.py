"""The manual is served as HTML that needs nothing from elsewhere, and as the Markdown that it was written in."""

import re

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from stockpulse.api import error_responses, manual

FILES = {path.stem: path for path in manual.FOLDER.glob("*.md")}


@pytest.fixture
def client() -> TestClient:
    app = FastAPI(title="StockPulse <1>", docs_url=None, redoc_url=None)
    error_responses.install(app)
    manual.install(app)
    return TestClient(app)


def links(html: str) -> list[str]:
    return re.findall(r'(?:href|src)="([^"]*)"', html)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_page_is_served_as_html(client: TestClient, name: str) -> None:
    answer = client.get(f"/manual/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    title = FILES[name].read_text().splitlines()[0].removeprefix("# ")
    assert f"<title>{title} · StockPulse &lt;1&gt;</title>" in answer.text
    assert 'aria-current="page"' in answer.text


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_page_is_served_as_it_was_written(client: TestClient, name: str) -> None:
    answer = client.get(f"/manual/{name}.md")
    assert answer.headers["content-type"].startswith("text/markdown")
    assert answer.text == FILES[name].read_text()


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_link_of_a_page_leads_somewhere(client: TestClient, name: str) -> None:
    html = client.get(f"/manual/{name}").text
    for link in links(html):
        target, _, place = link.partition("#")
        if target in {"../docs", "/manual/"} or link.startswith("http://127.0.0.1:8000"):
            continue
        answer = client.get(f"/manual/{target}")
        assert answer.status_code == 200, link
        assert not place or f' id="{place}"' in answer.text, link


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_page_has_no_script_and_nothing_from_elsewhere(client: TestClient, name: str) -> None:
    answer = client.get(f"/manual/{name}")
    assert "script" not in "".join(re.findall(r"<\w+", answer.text))
    assert " style=" not in answer.text
    assert [link for link in links(answer.text) if "://" in link and "127.0.0.1" not in link] == []
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'")


def test_the_contents_are_the_first_page(client: TestClient) -> None:
    assert client.get("/manual").text == client.get("/manual/index").text == client.get("/manual/").text
    listed = [page for pages in manual.contents().values() for page in pages]
    assert sorted(["index", *listed]) == sorted(FILES)


def test_the_style_follows_the_reader_and_fits_a_phone(client: TestClient) -> None:
    style = client.get("/manual/manual.css")
    assert style.headers["content-type"].startswith("text/css")
    assert "color-scheme: light dark" in style.text
    assert "max-width: 52rem" in style.text
    assert "://" not in style.text


@pytest.mark.parametrize("path", ["/manual/nothing", "/manual/nothing.md", "/manual/..%2findex", "/manual/%00"])
def test_an_unknown_page_is_not_found(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "NOT_FOUND"


def test_behind_a_proxy_the_pages_carry_its_prefix(client: TestClient) -> None:
    behind = TestClient(client.app, root_path="/market")
    assert '<base href="/market/manual/">' in behind.get("/manual").text


def test_markdown_brings_in_no_html() -> None:
    page = manual.rendered("page", "# A <b>page</b>\n\n<script>alert(1)</script>\n\n[x](javascript:alert(1))\n")
    assert "<script" not in page.body
    assert 'href="javascript' not in page.body


def test_the_manual_is_not_part_of_the_api(client: TestClient) -> None:
    assert client.get("/openapi.json").json()["paths"] == {}
