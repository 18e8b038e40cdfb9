"""One HTTP request, described as JSON on the input; the response as JSON on the output.

    {"url": …, "method": "POST", "headers": {…}, "params": {…}, "json_body": …, "timeout": 30}
    (or `body`, a text, in the place of `json_body`)
    {"status": 200, "headers": {…}, "body": …}

The body of a response is a JSON value if it says so, else text. A request that got no response ends
this program with code 1 and words on the errors.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from typing import Any

__all__ = ["main"]

MOST = 16 * 1024 * 1024
"""Bytes of a response that are read."""

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD")


class _RefusedError(Exception):
    """The words say why nothing was asked, or no response came."""


def main() -> int:
    """Make the request; the exit code."""
    try:
        response = _fetch(json.load(sys.stdin))
    except _RefusedError as refused:
        print(refused, file=sys.stderr)
        return 1
    json.dump(response, sys.stdout, ensure_ascii=False)
    return 0


def _request(asked: dict[str, Any]) -> urllib.request.Request:
    url = str(asked["url"])
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise _RefusedError(f"{url!r} is no address that begins with http:// or https://")
    if params := asked.get("params"):
        joined = "&" if urllib.parse.urlsplit(url).query else "?"
        url += joined + urllib.parse.urlencode(params, doseq=True)
    method = str(asked.get("method") or "GET").upper()
    if method not in METHODS:
        raise _RefusedError(f"{method} is none of {', '.join(METHODS)}")
    headers = {str(name): str(text) for name, text in (asked.get("headers") or {}).items()}
    data = None
    if asked.get("body") is not None:
        data = str(asked["body"]).encode()
    elif asked.get("json_body") is not None:
        data = json.dumps(asked["json_body"], ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json"} | headers
    return urllib.request.Request(url, data, headers, method=method)  # noqa: S310  # see above


def _fetch(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        request = _request(asked)
        try:
            # Only http and https come here, and redirects lead nowhere else.
            answer = urllib.request.urlopen(  # noqa: S310
                request, timeout=float(asked.get("timeout") or 60)
            )
        except urllib.error.HTTPError as failure:
            answer = failure  # it is a response too
        with answer:
            content = answer.read(MOST + 1)
            status, headers = int(answer.status), dict(answer.headers.items())
    except (OSError, HTTPException, ValueError) as failure:
        reason = getattr(failure, "reason", None) or failure
        raise _RefusedError(f"{asked['url']}: {reason}") from None
    if len(content) > MOST:
        raise _RefusedError(f"{asked['url']}: the response has more than {MOST:,} bytes")
    kind = str(answer.headers.get_content_type())
    charset = str(answer.headers.get_content_charset() or "utf-8")
    return {"status": status, "headers": headers, "body": _body(content, kind, charset)}


def _body(content: bytes, kind: str, charset: str) -> Any:
    try:
        text = content.decode(charset, "replace")
    except LookupError:
        text = content.decode("utf-8", "replace")
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass
    return text


if __name__ == "__main__":
    sys.exit(main())
