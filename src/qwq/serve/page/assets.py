"""The files of the built page, compressed once, with the policy that browsers hold it to."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from functools import cached_property
from pathlib import Path

from fastapi import FastAPI, Request, Response

from qwq.errors import InfraError
from qwq.serve.errors import INVALID, error_response

STATIC = Path(__file__).parents[1] / "static"
OCTETS = "application/octet-stream"
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src "
    "'self' data:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types dompurify",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class File:
    """One file of the built page, also compressed."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        manifest = path.suffix == ".webmanifest"
        self.kind = "application/manifest+json" if manifest else mimetypes.guess_type(path.name)[0] or OCTETS
        self.etag = f'"{hashlib.sha256(self.data).hexdigest()[:16]}"'

    @cached_property
    def packed(self) -> bytes | None:
        return (
            gzip.compress(self.data, 6, mtime=0)
            if self.kind.startswith("text/") or self.kind.endswith("script")
            else None
        )

    def response(self, request: Request, cache: str) -> Response:
        headers = SECURITY | {"Cache-Control": cache, "ETag": self.etag, "Vary": "Accept-Encoding"}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        if self.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.packed, media_type=self.kind, headers=headers | {"Content-Encoding": "gzip"})
        return Response(self.data, media_type=self.kind, headers=headers)


def serve_files(app: FastAPI) -> None:
    if not (STATIC / "index.html").is_file():
        raise InfraError(f"the page is not built: `make page` writes {STATIC.name}/")
    index = File(STATIC / "index.html")
    files = {p.name: File(p) for p in sorted((STATIC / "assets").iterdir())}

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return index.response(request, "no-cache")

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str, request: Request) -> Response:
        if name not in files:
            return error_response(404, f"there is no file {name!r}", INVALID)
        # Their names hold a hash of what is in them.
        return files[name].response(request, "public, max-age=31536000, immutable")
