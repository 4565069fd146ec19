"""Describe the pages for the OpenAPI document."""

from typing import Any

from sgn_serve.api.page import STATIC
from sgn_serve.http.paths import API_PAGE, PAGE, PAGE_FILES


def paths() -> dict[str, Any]:
    """Return the descriptions of the pages and of their files."""
    return {
        API_PAGE: {"get": _get("api_page", "Returns a page that describes the API.", "text/html")},
        PAGE: {"get": _get("ui", "Returns a page to try the network on, and to try to fool it.", "text/html")},
        PAGE_FILES: _files("ui_static", "Returns a style sheet or script of the page.", STATIC),
    }


_KINDS = {
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}


def _files(name: str, summary: str, files: tuple[str, ...]) -> dict[str, Any]:
    kinds = sorted({_KINDS[file.rsplit(".", 1)[1]] for file in files})
    file = {"name": "file", "in": "path", "required": True, "schema": {"enum": list(files)}}
    described = _get(name, summary, *kinds)
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    described["responses"]["404"] = {"description": "there is no such file", "content": refusal}
    return {"parameters": [file], "get": described}


def _get(name: str, summary: str, *kinds: str) -> dict[str, Any]:
    # A schema can only describe JSON; for the other kinds it says that they are text.
    content = {kind: {"schema": {} if kind == "application/json" else {"type": "string"}} for kind in kinds}
    answer = {"description": "the file", "content": content}
    return {"operationId": name, "summary": summary, "responses": {"200": answer}}
