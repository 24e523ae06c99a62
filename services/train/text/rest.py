"""Fetch records from the UniProt REST interface, politely and resumably.

`GET /uniprotkb/search?query=accession:A OR sec_acc:A OR ...&format=txt`, the flat-file format, so that
fetched and downloaded records are read by the same parser. A batch refused with 400 or 414 is halved; 429, 5xx,
broken transfers and damaged bodies are tried again after a random wait (exponential back-off with full
jitter: Brooker 2015, "Exponential Backoff And Jitter"), at least as long as Retry-After says.
"""

from __future__ import annotations

import email.utils
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx

from services.train.text.cache import FetchCache, Fetched
from services.train.text.flatfile import parse_flat_text
from services.train.text.record import TextRecord
from shared.errors import DataError, ServiceUnavailable

# https://www.uniprot.org/help/accession_numbers
ACCESSION = re.compile(r"[OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2}")
RETRIED = frozenset({429, 500, 502, 503, 504})
HALVED = frozenset({400, 414})
MAX_PAGES = 100  # of one query; each should have as many records as were asked for
REMEDY = "Run again later; what was fetched is kept. Or give a file with data.text and set text.fetch=false"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try one request. Times in seconds."""

    attempts: int = 8
    base_s: float = 1.0
    cap_s: float = 60.0
    longest_retry_after_s: float = 600.0
    timeout_s: float = 60.0


class _Refused(Exception):
    """The service finds the batch too long, or one of its accessions wrong: it is asked again in halves."""


@dataclass
class UniprotClient:
    """Asks for accessions in batches. `clock`, `sleep` and `jitter` are replaced in tests.

    Args:
        url: the service, without a trailing path.
        batch_size: accessions per request.
        requests_per_second: upper bound, retries included.
        jitter: a number in [0, 1) per wait; it decides waiting times only.
    """

    url: str
    batch_size: int
    requests_per_second: float
    patience: Patience = Patience()
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random
    _next_request: float = 0.0
    _http: httpx.Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._http = httpx.Client(timeout=self.patience.timeout_s, headers={"User-Agent": "gowhy"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def fetch(self, accessions: Sequence[str]) -> Iterator[list[Fetched]]:
        """Yield what the service says about each accession, a batch at a time, in the order asked.

        Raises:
            ServiceUnavailable: it does not answer, or not in the expected way, after all attempts.
        """
        for start in range(0, len(accessions), self.batch_size):
            yield from self._batch(accessions[start : start + self.batch_size])

    def _batch(self, batch: Sequence[str]) -> Iterator[list[Fetched]]:
        try:
            records, release = self._search(batch)
        except _Refused:
            if len(batch) == 1:
                yield [Fetched(batch[0], None, None)]
                return
            middle = len(batch) // 2
            yield from self._batch(batch[:middle])
            yield from self._batch(batch[middle:])
            return
        # The primary accession comes last, so that it prevails over another record's secondary one.
        by_accession = {name: record for record in reversed(records) for name in record.accessions[1:]}
        by_accession.update((record.accessions[0], record) for record in records)
        yield [Fetched(name, by_accession.get(name), release) for name in batch]

    def _search(self, batch: Sequence[str]) -> tuple[list[TextRecord], str | None]:
        """All pages of one query."""
        query = " OR ".join(f"accession:{name} OR sec_acc:{name}" for name in batch)
        address = httpx.URL(f"{self.url.rstrip('/')}/uniprotkb/search").copy_with(
            params={"query": query, "format": "txt", "size": str(len(batch))}
        )
        records: list[TextRecord] = []
        for _page in range(MAX_PAGES):
            response, page = self._get(address)
            records += page
            following = response.links.get("next", {}).get("url")
            if following is None:
                return records, response.headers.get("X-UniProt-Release")
            address = self._same_origin(address.join(following))
        raise ServiceUnavailable(f"an answer has more than {MAX_PAGES} pages", where=self.url, remedy=REMEDY)

    def _same_origin(self, address: httpx.URL) -> httpx.URL:
        origin = httpx.URL(self.url)
        if (address.scheme, address.host, address.port) != (origin.scheme, origin.host, origin.port):
            raise ServiceUnavailable(f"the next page is on another host: {address.host}", where=self.url, remedy=REMEDY)
        return address

    def _get(self, address: httpx.URL) -> tuple[httpx.Response, list[TextRecord]]:
        """One page, tried until it comes whole."""
        problem, least_wait_s = "", 0.0
        for attempt in range(self.patience.attempts):
            if attempt:
                longest = min(self.patience.cap_s, self.patience.base_s * 2 ** (attempt - 1))
                self.sleep(max(least_wait_s, self.jitter() * longest))
            self._wait_for_turn()
            least_wait_s = 0.0
            try:
                response = self._http.get(address)
                if response.status_code == 200:
                    return response, parse_flat_text(response.content, self.url)
            except (httpx.TransportError, httpx.DecodingError, DataError) as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.status_code in HALVED:
                raise _Refused
            least_wait_s = retry_after_s(response.headers.get("Retry-After"))
            problem = f"status {response.status_code}" + (f", Retry-After {least_wait_s:.0f} s" if least_wait_s else "")
            if response.status_code not in RETRIED or least_wait_s > self.patience.longest_retry_after_s:
                break
        raise ServiceUnavailable(f"UniProt does not answer: {problem}", where=self.url, remedy=REMEDY)

    def _wait_for_turn(self) -> None:
        now = self.clock()
        if self._next_request > now:
            self.sleep(self._next_request - now)
        self._next_request = max(now, self._next_request) + 1.0 / self.requests_per_second


def retry_after_s(value: str | None, now: Callable[[], float] = time.time) -> float:
    """Seconds that a Retry-After header asks for; 0 for none or an unreadable one (RFC 9110, 10.2.3)."""
    if value is None:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now())
    except ValueError:
        return 0.0


def fetch_missing(
    client: UniprotClient, cache: FetchCache, accessions: Iterable[str], advance: Callable[[int], None]
) -> int:
    """Fetch what the cache does not have; every batch is on disk before the next is asked for.

    Args:
        client: the service.
        cache: filled.
        accessions: wanted ones; what has not an accession's form is not asked for.
        advance: called with the number of accessions that were answered.

    Returns:
        How many of `accessions` have not an accession's form.
    """
    wanted = list(accessions)
    valid = [name for name in wanted if ACCESSION.fullmatch(name)]
    advance(sum(name in cache for name in valid))
    for answers in client.fetch([name for name in valid if name not in cache]):
        cache.add(answers)
        advance(len(answers))
    return len(wanted) - len(valid)
