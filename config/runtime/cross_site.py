"""Detect a browser's request from a page of another site; both services reject it.

Any page can make a browser send a plain-text POST to any address, 127.0.0.1 included. Without this
check, such a page could fill the journal and the window, and raise false drift alarms.
"""

from wsgiref.types import WSGIEnvironment


def is_cross_site(environ: WSGIEnvironment) -> bool:
    """Return True for a cross-site request that could change anything."""
    is_read = environ["REQUEST_METHOD"] in ("GET", "HEAD")
    return environ.get("HTTP_SEC_FETCH_SITE") == "cross-site" and not is_read
