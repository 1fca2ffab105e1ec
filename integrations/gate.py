"""`Gate`: so many requests are computed at a time, so many wait, and each is bounded in bytes and time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

Answer = TypeVar("Answer")
GONE = 499  # what nginx counts a client under that did not wait for its answer
_LATER = {"retry-after": "1"}


class Refused(Exception):
    """A request that is answered with an error.

    Parameters
    ----------
    status : int
    words : str
    headers : mapping, optional
    """

    def __init__(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(words)
        self.status, self.headers = status, dict(headers or {})


class Gate:
    """Where requests pass.

    Parameters
    ----------
    running, waiting : int
        Requests computed at a time, each in a thread, and those that wait or are read beside them.
    max_bytes : int
        Of a request.
    timeout : float
        Seconds from a request's arrival to its answer.
    """

    def __init__(self, running: int, waiting: int, max_bytes: int, timeout: float) -> None:
        self.max_bytes, self.timeout = max_bytes, timeout
        self._most, self._inside, self._lock = running + waiting, 0, threading.Lock()
        self._threads = ThreadPoolExecutor(running, thread_name_prefix="lookalike")

    async def passed(self, request: Request, work: Callable[[bytes], Answer]) -> Answer:
        """Read a request and work on it in a thread.

        Its place is free again once its thread is: work that is late is not waited for, but counts. Work that
        has not begun when the time is over, or when the client has gone, is left out.

        Raises
        ------
        Refused
            413 for too many bytes, 429 where too many wait, 503 where it took too long.
        """
        self._enter()
        working: Future[Answer] | None = None
        try:
            async with asyncio.timeout(self.timeout):
                body = await self._body(request)
                working = self._threads.submit(work, body)
                working.add_done_callback(lambda _: self._leave())
                return await _while_there(request, working)
        except TimeoutError:
            raise Refused(503, f"there was no answer within {self.timeout:g} seconds.", _LATER) from None
        except ClientDisconnect:
            raise Refused(GONE, "the client has gone.") from None
        finally:
            if working is None:
                self._leave()

    def _enter(self) -> None:
        with self._lock:
            if self._inside >= self._most:
                raise Refused(429, f"{self._inside} requests are waiting. Try again.", _LATER)
            self._inside += 1

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1

    async def _body(self, request: Request) -> bytes:
        """The body, given up as soon as it is too long."""
        most = self.max_bytes
        said = request.headers.get("content-length", "0")
        if said.isdecimal() and int(said) > most:
            raise Refused(413, f"the request has {int(said):,} bytes, and {most:,} are allowed.")
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise Refused(413, f"the request has more than {most:,} bytes.")
        return bytes(body)


async def _while_there(request: Request, working: Future[Answer]) -> Answer:
    """The result, unless the client goes away before."""
    answer = asyncio.wrap_future(working)
    gone = asyncio.ensure_future(request.receive())  # after the body comes nothing but its end
    try:
        either: set[asyncio.Future[Any]] = {answer, gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        answer.cancel()
        gone.cancel()
