"""GitHub's interface: a few requests, to the address that the runner names and to no other."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .errors import CiError, variable

_PAGE = 100
_TIMEOUT_S = 30


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token goes to no other address."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class GitHub:
    """The repository that the workflow runs for."""

    api: str
    repository: str
    token: str = field(repr=False)

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Send a request below `/repos/OWNER/NAME`; returns the JSON of the answer, if it has any.

        Raises:
            CiError: No answer, or a refusal.
        """
        request = urllib.request.Request(  # noqa: S310 the runner's own address
            f"{self.api}/repos/{self.repository}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
                "X-GitHub-Api-Version": "2022-11-28",
            },
        )
        try:
            with urllib.request.build_opener(_NoRedirect).open(
                request, timeout=_TIMEOUT_S
            ) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            advice = (
                " Does the token allow it (a job's: its `permissions`)?"
                if error.code in (401, 403, 404)
                else ""
            )
            raise CiError(
                f"GitHub refused {method} {path} with {error.code} {error.reason}.{advice}"
            ) from None
        except (OSError, ValueError) as error:
            raise CiError(
                f"GitHub at {self.api} does not answer {method} {path}: {error}"
            ) from None

    def every(self, path: str) -> Iterator[Any]:
        """All entries of a list, page by page."""
        mark = "&" if "?" in path else "?"
        page, entries = 0, [None] * _PAGE
        while len(entries) == _PAGE:
            page += 1
            entries = self.request("GET", f"{path}{mark}per_page={_PAGE}&page={page}")
            yield from entries


def connect() -> GitHub:
    """The repository, by the variables of the runner and a token.

    Raises:
        CiError: A variable is not set, or the address is none of the web.
    """
    api = variable("GITHUB_API_URL").rstrip("/")
    if not api.startswith(("https://", "http://")):
        raise CiError(f"GITHUB_API_URL is no web address: {api}")
    return GitHub(api, variable("GITHUB_REPOSITORY"), variable("GITHUB_TOKEN"))
