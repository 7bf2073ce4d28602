import re

from fastapi import FastAPI
from starlette.testclient import TestClient

from stockpulse.api import docs


def offline_app(**options):
    app = FastAPI(title="StockPulse", docs_url=None, redoc_url=None, **options)
    docs.install(app)
    return app


def urls_in(html):
    return re.findall(r"""(?:src|href|spec-url)="([^"]+)"|\bdata-document="([^"]+)\"""", html)


def test_every_url_of_the_pages_is_served_here():
    client = TestClient(offline_app())
    for page, expected in (("/docs", 5), ("/redoc", 3)):
        html = client.get(page)
        assert html.status_code == 200
        urls = [one or other for one, other in urls_in(html.text)]
        assert len(urls) == expected
        assert "/openapi.json" in urls
        assert [client.get(url).status_code for url in urls] == [200] * expected


def test_nothing_else_in_the_pages_comes_from_elsewhere():
    client = TestClient(offline_app())
    for page in ("/docs", "/redoc"):
        assert "://" not in client.get(page).text


def test_no_script_is_inline_and_the_policy_allows_none():
    client = TestClient(offline_app())
    for page in ("/docs", "/redoc"):
        answer = client.get(page)
        assert re.findall(r"<script(?! src=)", answer.text) == []
        assert re.findall(r">[^<]+</script>", answer.text) == []
        directives = answer.headers["content-security-policy"].split("; ")
        assert directives[:2] == ["default-src 'none'", "script-src 'self'"]
        assert "frame-ancestors 'none'" in directives


def test_behind_a_proxy_the_urls_carry_its_prefix():
    client = TestClient(offline_app(), root_path="/market")
    urls = [one or other for one, other in urls_in(client.get("/docs").text)]
    assert all(url.startswith("/market/") for url in urls)


def test_the_pages_are_not_part_of_the_api():
    assert TestClient(offline_app()).get("/openapi.json").json()["paths"] == {}
