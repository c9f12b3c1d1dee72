"""Hostile requests: invalid JSON in valid HTTP, and invalid HTTP.

A seed determines all of them, so a failed request can be sent again.
"""

import json
import random
import string
from collections.abc import Callable
from typing import Any, NamedTuple

Record = dict[str, Any]

PATHS = "/predict /predict?explain=true /feedback /model /health/ready /openapi.json /docs".split()
PATHS += ["/metrics", "/"]
QUERIES = (
    "?explain=maybe",
    "?explain=true&explain=false",
    "?%00",
    "?explain=%ff",
    "?=&&=;",
    "?" + "x" * 3000,
)
METHODS = "GET HEAD PUT DELETE OPTIONS TRACE CONNECT PATCH post X PRI".split()
VERSIONS = ("HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/0.9", "HTTP/1.10", "http/1.1", "HTTP/", "")
HOST_AND_TYPE = "Host: here\r\nContent-Type: application/json"
HEADERS = (
    "Content-Type: text/html",
    "Content-Type: application/x-www-form-urlencoded",
    "Content-Type: multipart/form-data; boundary=x",
    "Content-Encoding: gzip",
    "Expect: 100-continue",
    "Expect: 200-ok",
    "Connection: close",
    "Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA",
    "Connection: keep-alive, close, te",
    "Idempotency-Key:",
    "Idempotency-Key: " + "k" * 300,
    "Idempotency-Key: \xff\xfe",
    "X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off",
    "X-Forwarded-For: " + "1.2.3.4, " * 50,
    "SCRIPT_NAME: /elsewhere",
    "PATH_INFO: /metrics",
    "Content_Length: 3",
    "Host: another",
    "Host: a b c",
    "Host: [::",
    "Origin: null",
    "Range: bytes=0-1,5-",
    "Accept: " + "*/*;q=0.1," * 100,
    "Cookie: session=" + "A" * 500,
    "Authorization: Basic !!!",
    "Authorization: Bearer \xff\xfe",
    "Authorization: Bearer " + "b" * 5000,
    "X-Request-ID: \xff",
    "X-Request-ID: " + "i" * 1000,
    "X-Request-ID: a b\tc",
    "If-None-Match: *",
    "X: " + "y" * 9000,
    "X y: z",
    ": empty",
    "no colon",
    " folded: line",
    "X: a\x00b",
    "X: a\rb",
    "X: a\nInjected: b",
    "Trailer: Expires",
    "TE: trailers, deflate;q=0.5",
)
LENGTHS = (
    "-1",
    "+5",
    "0x10",
    "5, 5",
    "1e3",
    "",
    " ",
    "99999999999999999999",
    "9" * 5000,
    "00000000000000000007",
    "\xb2",
    "3\r\nContent-Length: 4",
)
CODINGS = (
    "chunked",
    "Chunked",
    "chunked, chunked",
    "gzip, chunked",
    "chunked, gzip",
    "identity",
    "gzip",
    "xchunked",
    "",
    "\x0bchunked",
    "chunked\r\nTransfer-Encoding: identity",
)
CHUNKS = (
    "5\r\nabc",
    "zz\r\nabc\r\n0\r\n\r\n",
    "-1\r\na\r\n0\r\n\r\n",
    "0\r\nHost: b\r\n\r\n",
    "0\r\n: x\r\n\r\n",
    "1\r\nabc\r\n0\r\n\r\n",
    "ffffffffffffffff\r\n",
    "f" * 40 + "\r\n",
    '1;x="\r\na\r\n0\r\n\r\n',
    "1\na\n0\n\n",
    "\r\n\r\n",
    "1;" + "x" * 3000 + "\r\na\r\n0\r\n\r\n",
    "0 \r\n\r\n",
    "1\r\n{\r\n" * 300 + "0\r\n\r\n",
)


class Hostile(NamedTuple):
    """The bytes that are sent on one connection."""

    kind: str
    content: bytes
    hangs_up: bool = True  # the client half-closes the connection; otherwise it waits


class Generator:
    """Makes hostile requests from a valid record."""

    def __init__(self, seed: int, record: Record) -> None:
        self.random = random.Random(seed)
        self.record = record
        self.name = next(iter(record))  # of its first column
        self._kinds: list[Callable[[], Hostile]] = [
            self._json,
            self._json,
            self._text,
            self._feedback,
            self._header,
            self._length,
            self._chunks,
            self._line,
            self._damaged,
            self._cut,
            self._noise,
            self._pipeline,
        ]

    def next(self) -> Hostile:
        """Return the next request."""
        return self.random.choice(self._kinds)()

    def value(self, depth: int = 0) -> Any:
        """Return a JSON value, often an extreme one."""
        simple: list[Any] = [
            None,
            True,
            0,
            -1,
            1.5,
            -0.0,
            2**31,
            -(2**63),
            2**64,
            10**300,
            10**400,
            1e308,
            float("nan"),
            float("-inf"),
            "",
            "text",
            "\x00",
            "\ud800",
            "é" * 50,
            "x" * self.random.choice([1, 99, 100, 101, 5000]),
            "<script>alert(1)</script>",
            "' OR 1=1 --",
            "${jndi:ldap://a}",
            "../../etc/passwd",
        ]
        if depth < 3 and self.random.random() < 0.3:
            inner = [self.value(depth + 1) for _ in range(self.random.randrange(4))]
            return inner if self.random.random() < 0.5 else {str(one)[:20]: one for one in inner}
        return self.random.choice(simple)

    def wrong_record(self) -> Any:
        """Return a record with one to three errors."""
        record: Any = dict(self.record)
        for _ in range(self.random.randrange(1, 4)):
            name = self.random.choice([*self.record, "surprise", "", f"{self.name} "])
            match self.random.randrange(4):
                case 0:
                    record.pop(name, None)
                case 1:
                    record = {name: record.pop(name, 1), **record}
                case _:
                    record[name] = self.value()
        return record

    def request(self, body: bytes, *headers: str, path: str = "", method: str = "POST") -> bytes:
        """Return a valid HTTP request, except for the given headers."""
        path = path or self.random.choice(PATHS)
        head = [
            f"{method} {path} HTTP/1.1",
            HOST_AND_TYPE,
            f"Content-Length: {len(body)}",
            *headers,
        ]
        return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body

    def valid(self) -> bytes:
        """Return a request that gets status 200."""
        return self.request(json.dumps(self.record).encode(), path="/predict")

    def _json(self) -> Hostile:
        body: Any = self.wrong_record()
        if self.random.random() < 0.3:
            body = [self.wrong_record() for _ in range(self.random.randrange(60))]
        elif self.random.random() < 0.2:
            body = self.value()
        text = json.dumps(body, ensure_ascii=self.random.random() < 0.5)
        path = self.random.choice(["/predict", "/predict?explain=true"])
        return Hostile("json", self.request(text.encode("utf-8", "surrogatepass"), path=path))

    def _text(self) -> Hostile:
        """Return a body that is almost JSON, or JSON in another encoding."""
        text = json.dumps(self.record)
        at = self.random.randrange(len(text))
        name = f'"{self.name}"'
        escaped = f'"\\u{ord(self.name[0]):04x}{self.name[1:]}"'
        changed = self.random.choice(
            [
                text[:at].encode(),
                text[:at].encode() + bytes([self.random.randrange(256)]) + text[at:].encode(),
                text.replace(name, f"{name}: 30, {name}").encode(),
                text.replace(name, f"{escaped}: 30, {name}").encode(),
                text.encode("utf-16"),
                b"\xef\xbb\xbf" + text.encode(),
                (text + text).encode(),
                b"[" * self.random.choice([10, 1000, 19_000]),
                b'{"a":' * self.random.choice([10, 3000]),
                f"{{{name}: {'9' * self.random.choice([30, 4000, 5000])}}}".encode(),
                b"{" + b",".join(b'"%d":1' % index for index in range(2000)) + b"}",
                b"[" + b",".join([text.encode()] * 51) + b"]",
                b" " * 20_000,
                b"x" * 20_001,
                self.random.randbytes(self.random.randrange(200)),
            ]
        )
        path = self.random.choice(["/predict", "/feedback", "/predict?explain=true"])
        return Hostile("text", self.request(changed, path=path))

    def _feedback(self) -> Hostile:
        one = {"prediction_id": self.random.choice(["0" * 32, "G" * 32, self.value()])}
        one["label"] = self.random.choice([0, 1, 2, True, 1.0, self.value()])
        body = self.random.choice([one, [one, one], [one] * 60, self.value()])
        return Hostile("feedback", self.request(json.dumps(body).encode(), path="/feedback"))

    def _header(self) -> Hostile:
        headers = self.random.choices(HEADERS, k=self.random.choice([1, 1, 2, 3, 120]))
        return Hostile("header", self.request(json.dumps(self.record).encode(), *headers))

    def _length(self) -> Hostile:
        request = self.valid()
        length, body = self.random.choice(LENGTHS), request.partition(b"\r\n\r\n")[2]
        head = f"POST {self.random.choice(PATHS)} HTTP/1.1\r\n{HOST_AND_TYPE}\r\n"
        head += f"Content-Length: {length}"
        return Hostile("length", head.encode("latin-1") + b"\r\n\r\n" + body)

    def _chunks(self) -> Hostile:
        coding = self.random.choice(CODINGS)
        head = f"POST {self.random.choice(PATHS)} HTTP/1.1\r\n{HOST_AND_TYPE}\r\n"
        head += f"Transfer-Encoding: {coding}"
        if self.random.random() < 0.2:
            head += "\r\nContent-Length: 3"
        chunks = self.random.choice(CHUNKS)
        return Hostile("chunks", f"{head}\r\n\r\n{chunks}".encode("latin-1"))

    def _line(self) -> Hostile:
        method = self.random.choice([*METHODS, "POST", "A" * 30])
        path = self.random.choice(PATHS) + self.random.choice(["", *QUERIES])
        path = self.random.choice(
            [path, path, "http://elsewhere/predict", "//predict", "/%00", "/%zz", "/../model", "*"]
            + ["", "/" + "a" * 9000, "/pr\xe9dict", "here:80", "/model/card/", "/static/../wsgi.py"]
        )
        version = self.random.choice(VERSIONS)
        return Hostile("line", f"{method} {path} {version}\r\nHost: a\r\n\r\n".encode("latin-1"))

    def _damaged(self) -> Hostile:
        """Return a valid request with some bytes changed, deleted or inserted."""
        content = bytearray(self.valid())
        for _ in range(self.random.randrange(1, 6)):
            at = self.random.randrange(len(content))
            match self.random.randrange(3):
                case 0:
                    content[at] = self.random.randrange(256)
                case 1:
                    del content[at]
                case _:
                    content.insert(at, self.random.choice(b'\r\n\x00 :{}[]",'))
        return Hostile("damaged", bytes(content))

    def _cut(self) -> Hostile:
        """Return a truncated request; with some, the service waits for the rest."""
        content = self.valid()
        at = self.random.randrange(len(content))
        return Hostile("cut", content[:at], hangs_up=self.random.random() < 0.95)

    def _noise(self) -> Hostile:
        letters = (string.printable + "\r\n" * 20).encode()
        n_bytes = self.random.choice([1, 10, 1000, 70_000])
        noise = bytes(self.random.choices(letters, k=min(n_bytes, 2000))) * (n_bytes // 2000 or 1)
        tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        return Hostile("noise", self.random.choice([noise, self.random.randbytes(n_bytes), tls]))

    def _pipeline(self) -> Hostile:
        """Return several requests on one connection, valid and invalid ones."""
        parts = [self.next().content for _ in range(self.random.randrange(2, 5))]
        return Hostile("pipeline", self.valid() + b"".join(parts))
