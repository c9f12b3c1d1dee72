"""What a browser sends for a page of another site, which both services refuse.

A browser sends any page's plain-text POST to any address that it reaches, 127.0.0.1 included, and
says so. Without this, who opens a page could fill journal and window, and raise drift.
"""

from wsgiref.types import WSGIEnvironment


def is_cross_site(environ: WSGIEnvironment) -> bool:
    """Whether such a request could change anything."""
    is_read = environ["REQUEST_METHOD"] in ("GET", "HEAD")
    return environ.get("HTTP_SEC_FETCH_SITE") == "cross-site" and not is_read
