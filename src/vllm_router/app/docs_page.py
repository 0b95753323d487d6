"""The page at /docs: Swagger UI, served entirely by the router, with forms that are ready to use.

Works without internet access. Empty form fields are not sent: Swagger UI would send empty strings,
and engines refuse an empty language.
"""

from __future__ import annotations

from fastapi.openapi.docs import get_swagger_ui_html

_BUNDLE = "SwaggerUIBundle({"
_WITHOUT_EMPTY_FIELDS = """requestInterceptor: (request) => {
        if (request.body instanceof FormData) {
            for (const [name, value] of [...request.body.entries()]) {
                if (value === "") request.body.delete(name);
            }
        }
        return request;
    },
    """


def docs_page(title: str, root_path: str, openapi_url: str, static_url: str) -> str:
    """Return the page's HTML.

    Args:
        title: Title of the page.
        root_path: Path prefix under which a proxy serves the router; empty, or with a leading
            slash.
        openapi_url: Path of the OpenAPI document.
        static_url: Path of Swagger UI's files.
    """
    page = get_swagger_ui_html(
        title=title,
        openapi_url=root_path + openapi_url,
        swagger_js_url=f"{root_path}{static_url}/swagger-ui-bundle.js",
        swagger_css_url=f"{root_path}{static_url}/swagger-ui.css",
        swagger_favicon_url=f"{root_path}{static_url}/favicon.png",
        # Show the form without an extra click.
        swagger_ui_parameters={"tryItOutEnabled": True},
    )
    html = bytes(page.body).decode()
    return html.replace(_BUNDLE, _BUNDLE + "\n    " + _WITHOUT_EMPTY_FIELDS, 1)
