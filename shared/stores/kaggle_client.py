"""The real Kaggle client, with what it lacks: timeouts, and errors that say whether to try again.

`kaggle` finds the credentials and `kagglesdk` knows the calls; bytes go over plain HTTP sessions. The client's
own upload is not used: it publishes a version without the files that failed, resumes by size and time instead
of content, and repeats a commit whose answer was lost.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import requests

from shared.errors import MissingInput, NotPermitted, ServiceUnavailable
from shared.stores.base import MissingObject, Transient

T = TypeVar("T")
TIMEOUT_S = (10.0, 120.0)  # to connect; between two packets
BUSY = frozenset({429, 500, 502, 503, 504, 408})
HINT = "Set KAGGLE_USERNAME and KAGGLE_KEY (or KAGGLE_API_TOKEN); see docs/kaggle.md"


class Session(requests.Session):
    """A session whose requests end, and which hands signed addresses over instead of following them."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send with a timeout; a download's redirect is for the caller, who wants a range of it."""
        if options.get("timeout") is None:
            options["timeout"] = TIMEOUT_S
        if (request.url or "").endswith("/DownloadDataset"):
            options["allow_redirects"] = False
        return super().send(request, **options)


def connect() -> Any:
    """An authenticated `kagglesdk` client.

    Raises:
        MissingInput: the package is not installed.
        NotPermitted: no credentials were found.
    """
    try:
        # Importing prints advice to stdout when there are no credentials; ours is on stderr, once.
        with contextlib.redirect_stdout(io.StringIO()):
            from kaggle.api.kaggle_api_extended import KaggleApi  # noqa: PLC0415 - it authenticates when imported

            api = KaggleApi()
            api.authenticate()
            client = api.build_kaggle_client()
    except ImportError as error:
        raise MissingInput(
            f"{error}", where="kaggle://", remedy="Install kaggle, kagglesdk and six (make setup)"
        ) from error
    except SystemExit as error:
        raise NotPermitted("no Kaggle credentials", where="kaggle://", remedy=HINT) from error
    except requests.RequestException as error:
        raise Transient(f"{error}", where="kaggle://") from error
    http = client.http_client()
    http.__enter__()
    session = Session()
    session.headers.update(http._session.headers)
    session.auth = http._session.auth
    http._session = session
    return client


def ask(call: Callable[[Any], T], request: Any, where: str) -> T:
    """Make a remote call.

    Raises:
        Transient: dropped connection, timeout, 429 or 5xx.
        MissingObject: 403 or 404; Kaggle does not tell "not there" from "not yours".
        NotPermitted: 401.
        ServiceUnavailable: refused for another reason.
    """
    with translated(where):
        return call(request)


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what requests raises into what the engine knows."""
    try:
        yield
    except requests.HTTPError as error:
        if (response := error.response) is None:
            raise Transient(str(error), where=where) from error
        raise_for(_code(response), response, where, str(error))
    except (requests.RequestException, ConnectionError) as error:
        raise Transient(f"{type(error).__name__}: {error}", where=where) from error


def raise_for(code: int, response: requests.Response, where: str, message: str = "") -> None:
    """Raise what an HTTP status means."""
    text = f"HTTP {code} {message}".strip()
    if code in BUSY:
        raise Transient(text, where=where, retry_after=retry_after(response))
    if code in (403, 404):
        raise MissingObject(text, where=where)
    if code == 401:
        raise NotPermitted(text, where=where, remedy=HINT)
    raise ServiceUnavailable(text, where=where, remedy="Kaggle refused the request; see docs/kaggle.md")


def retry_after(response: requests.Response) -> float | None:
    """Seconds in the Retry-After header; None when there is none or it is a date."""
    try:
        return float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return None


def _code(response: requests.Response) -> int:
    # An error may come in the body of a 200 answer.
    with contextlib.suppress(ValueError, AttributeError):
        code = response.json().get("code")
        if isinstance(code, int) and code >= 400:
            return code
    return response.status_code


def signed_md5(response: requests.Response) -> str | None:
    """The md5, in hex, that Google Cloud Storage computed of the whole object; None when it does not tell."""
    for item in response.headers.get("x-goog-hash", "").split(","):
        name, _, value = item.strip().partition("=")
        if name == "md5":
            with contextlib.suppress(binascii.Error):
                return base64.b64decode(value).hex()
    return None
