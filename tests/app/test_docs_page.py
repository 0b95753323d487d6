"""What the page is made of; in a real browser it is tried in tests/packaging."""

import re

from vllm_router.app.docs_page import docs_page

PAGE = docs_page("Title", "/asr", "/openapi.json", "/static")


def test_everything_is_fetched_from_the_router_under_its_root_path() -> None:
    links = re.findall(r'(?:src|href)="([^"]+)"', PAGE)
    assert len(links) == 3
    assert all(link.startswith("/asr/static/") for link in links)
    assert "url: '/asr/openapi.json'" in PAGE
    assert "https://" not in PAGE


def test_forms_are_ready_and_leave_out_what_is_empty() -> None:
    assert '"tryItOutEnabled": true' in PAGE
    assert PAGE.index("SwaggerUIBundle({") < PAGE.index("requestInterceptor")
    assert PAGE.count("requestInterceptor") == 1
