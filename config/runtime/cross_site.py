"""Detect what a browser sends for a page of another site; both services reject it.

Any page can make a browser send a plain-text POST to any address, 127.0.0.1 included. Without these
checks, such a page could fill the journal and the window, and raise false drift alarms. With DNS
rebinding, the page's own host name gets the address of a service. The browser then takes page and
service for one site, and the page can also read.
"""

from functools import lru_cache
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit
from wsgiref.types import WSGIEnvironment

from config.runtime.settings import matching

JSON = "application/json"
MAX_REMEMBERED = 1000
HOST = r"\.?[a-z0-9-]+(\.[a-z0-9-]+)*"
UNTRUSTED_HOST = (
    "Host: not trusted; expected an IP address, a name without a dot, or a name in TRUSTED_HOSTS."
)
NOT_JSON_TYPE = f"Content-Type: expected {JSON}. Send the header with every POST."
ENCODED_BODY = (
    "Content-Encoding: not supported; expected no encoding. Send the body uncompressed, without the"
    " header."
)
HOSTS_DESCRIPTION = (
    "Host names under which clients reach the service, separated by commas; `.example.org` includes"
    " all names below it. IP addresses and names without a dot are always trusted."
)

TrustedHosts = Annotated[
    str,
    matching(rf"({HOST}(,{HOST})*)?", "host names in lower case without a port, NAME,NAME"),
]


def is_cross_site(environ: WSGIEnvironment) -> bool:
    """Return True for a cross-site request that could change anything.

    Browsers send `Origin` with every POST. They send `Sec-Fetch-Site` over HTTPS and to the
    loopback address only. Programs send neither.
    """
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        return False
    if site := environ.get("HTTP_SEC_FETCH_SITE"):
        return site == "cross-site"
    origin = environ.get("HTTP_ORIGIN")
    return origin is not None and origin.partition("://")[2] != environ.get("HTTP_HOST")


@lru_cache(MAX_REMEMBERED)
def is_trusted_host(host: str, trusted: str) -> bool:
    """Return False for a `Host` header that DNS rebinding could make; see UNTRUSTED_HOST.

    `trusted` is the setting TRUSTED_HOSTS. Without a header the client is not a browser.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if "." in name or ":" in name:
            return is_listed(name, trusted) or bool(ip_address(name))
    except ValueError:
        return False
    return True


def is_listed(name: str, trusted: str) -> bool:
    """Return whether TRUSTED_HOSTS has a name, or a domain above it."""
    return any(
        name == one or (one.startswith(".") and name.endswith(one)) for one in trusted.split(",")
    )


def find_body_fault(environ: WSGIEnvironment) -> str | None:
    """Return why the headers do not describe a readable body (status 415), or None."""
    if not is_json(environ.get("CONTENT_TYPE", "")):
        return NOT_JSON_TYPE
    encoding = environ.get("HTTP_CONTENT_ENCODING")
    return ENCODED_BODY if encoding and encoding.strip().lower() != "identity" else None


def is_json(content_type: str) -> bool:
    """Return whether a `Content-Type` header is JSON, which no page can send to another site.

    A browser would first ask the service for permission, which it does not give.
    """
    return content_type == JSON or content_type.partition(";")[0].strip().lower() == JSON
