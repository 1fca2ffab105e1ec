"""HTTP: exported models behind FastAPI, as JSON, Arrow, or the Open Inference Protocol (KServe v2).

``lookalike serve orders.onnx`` does what the example does.

Examples
--------
>>> application = app({"orders": "orders.onnx"})  # doctest: +SKIP
>>> uvicorn.run(application)  # doctest: +SKIP
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookalike._version import __version__
from lookalike.errors import SchemaError
from lookalike.integrations import inference, streams
from lookalike.integrations.gate import Gate, Refused
from lookalike.integrations.metrics import CONTENT_TYPE, Metrics
from lookalike.integrations.records import Records, rows_of_table
from lookalike.integrations.scorer import ODD, P, Scorer, arrow_type
from lookalike.parameters import Range

ARROW = "application/vnd.apache.arrow.stream"
MAX_BYTES, MAX_ROWS, MAX_WAITING, TIMEOUT = 16 << 20, 100_000, 64, 30.0
MAX_REASONS = 100


class _Served(NamedTuple):
    """A model, and how requests for it are read."""

    name: str
    scorer: Scorer
    records: Records


def app(
    models: Any,
    *,
    max_bytes: int = MAX_BYTES,
    max_rows: int = MAX_ROWS,
    max_running: int | None = None,
    max_waiting: int = MAX_WAITING,
    timeout: float = TIMEOUT,
    threads: int = 1,
    device: str = "cpu",
    false_alarm_rate: float | None = None,
) -> FastAPI:
    """Make an application that scores rows sent to it.

    ==============================================  ==========================================================
    request                                         answer
    ==============================================  ==========================================================
    POST /models/{name}/score                       rows as JSON, ``[{"amount": 3.5, ...}, ...]``: what is
                                                    added to each; an Arrow stream: the stream, and columns
                                                    added
    POST /models/{name}/explain?top=3               also the columns to blame for each anomaly
    POST /v2/models/{name}/infer                    the Open Inference Protocol: a tensor a column
    GET /v2, /v2/models/{name}                      what is served
    GET /v2/health/live, /v2/health/ready,          200
    /v2/models/{name}/ready
    GET /metrics                                    for Prometheus: requests, times, rows, p-values
    ==============================================  ==========================================================

    Errors are ``{"error": "..."}``: 400 for rows that do not fit (which column, which row), 404, 413 for too
    many bytes or rows, 429 where too many wait, 503 where a request has waited or run for too long. In JSON a
    missing value is null, NaN or left out. Bodies take `max_bytes` of memory for each request that runs or
    waits, at most.

    Parameters
    ----------
    models : mapping of name to file, or one file, or a list of files
        Exported files, their content, or opened or fitted models. A file is served under its name without
        the suffix.
    max_bytes, max_rows : int
        Of a request.
    max_running : int, optional
        Requests that are computed at a time; by default as many as there are processors.
    max_waiting : int
        Requests that wait for that; any more are refused at once.
    timeout : float
        Seconds from a request's arrival to its answer.
    threads, device, false_alarm_rate
        As of `Scorer`.

    Returns
    -------
    fastapi.FastAPI

    Raises
    ------
    ArtifactError
        If a file cannot be loaded, or does not score.
    """
    running = (os.cpu_count() or 1) if max_running is None else max_running
    for limit, value in (("max_bytes", max_bytes), ("max_rows", max_rows), ("max_running", running)):
        Range(1, math.inf, whole=True).check(limit, value)
    Range(0, math.inf, whole=True).check("max_waiting", max_waiting)
    Range(0.001, math.inf).check("timeout", timeout)
    options: dict[str, Any] = {"threads": threads, "device": device, "false_alarm_rate": false_alarm_rate}
    served = {}
    for name, model in _named(models).items():
        scorer = Scorer(model, **options)
        served[name] = _Served(name, scorer, Records(scorer.model))
    gate, metrics = Gate(running, max_waiting, max_bytes, timeout), Metrics()
    # Pages of documentation would load scripts from elsewhere.
    application = FastAPI(title="lookalike", version=__version__, docs_url=None, redoc_url=None)
    application.add_middleware(_Measured, metrics=metrics)
    _answer_errors(application)

    def of(name: str) -> _Served:
        if name not in served:
            raise Refused(404, f"there is no model {name!r}. There are: {', '.join(served)}.")
        return served[name]

    def few(n: int) -> None:
        if n > max_rows:
            words = f"the request has {n:,} rows, and {max_rows:,} are allowed. Send some at a time."
            raise Refused(413, words)

    async def scored(request: Request, model: _Served, scorer: Scorer) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()

        def of_stream(body: bytes) -> Response:
            table = streams.read(body)
            few(table.num_rows)
            table = scorer(table)
            metrics.rows(model.name, table[P].to_numpy(), table[ODD].to_numpy())
            return Response(streams.written(table), media_type=ARROW)

        def of_records(body: bytes) -> Response:
            records = _parsed(body)
            if isinstance(records, Mapping):
                records = records.get("rows")
            if not isinstance(records, list):
                raise SchemaError('a list of rows was expected: [{"column": value, ...}, ...].')
            few(len(records))
            added = scorer.added(model.records.table(records))
            metrics.rows(model.name, added[P], added[ODD])
            kinds = scorer.kinds
            table = pa.table({name: pa.array(v, arrow_type(kinds[name])) for name, v in added.items()})
            return _json({"rows": rows_of_table(table)})

        return await gate.passed(request, of_stream if kind == ARROW else of_records)

    @application.post("/models/{name}/score")
    async def score(name: str, request: Request) -> Response:
        model = of(name)
        return await scored(request, model, model.scorer)

    @application.post("/models/{name}/explain")
    async def explain(name: str, request: Request, top: int = 3) -> Response:
        model = of(name)
        if not 1 <= top <= MAX_REASONS:
            raise Refused(400, f"top must be a whole number from 1 to {MAX_REASONS}, got {top}.")
        return await scored(request, model, Scorer(model.scorer.model, reasons=top, **options))

    @application.post("/v2/models/{name}/infer")
    async def infer(name: str, request: Request) -> Response:
        model = of(name)

        def work(body: bytes) -> Response:
            asked = _parsed(body)
            columns = inference.columns_of(asked)
            few(max(map(len, columns.values())))
            added = model.scorer.added(model.records.of_columns(columns))
            answer = inference.answer(asked, name, model.scorer, added)
            metrics.rows(name, added[P], added[ODD])
            return _json(answer)

        return await gate.passed(request, work)

    @application.get("/v2")
    async def server() -> Response:
        return _json({"name": "lookalike", "version": __version__, "extensions": [], "models": [*served]})

    @application.get("/v2/models/{name}")
    async def metadata(name: str) -> Response:
        return _json(inference.about(name, of(name).scorer))

    @application.get("/v2/models/{name}/ready")
    async def model_ready(name: str) -> Response:
        return _json({"name": of(name).name, "ready": True})

    @application.get("/v2/health/live")
    async def live() -> Response:
        return _json({"live": True})

    @application.get("/v2/health/ready")
    async def ready() -> Response:
        return _json({"ready": True})  # models are opened before there is an application

    @application.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return application


def serve(
    application: FastAPI,
    host: str,
    port: int,
    grace: float = TIMEOUT,
    say: Callable[[str], Any] | None = None,
) -> None:
    """Serve an application until SIGTERM or SIGINT, and then answer what is still running.

    Parameters
    ----------
    application : FastAPI
    host : str
    port : int
        0 takes one that is free.
    grace : float
        Seconds for requests that run when it is stopped.
    say : callable, optional
        Given the address once requests are taken.

    Raises
    ------
    OSError
        If the address cannot be had.
    """
    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=2048) as listening:
        # As asyncio does for sockets that it makes; without it each answer waits for an acknowledgement.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = uvicorn.Server(
            uvicorn.Config(
                application, log_level="warning", access_log=False, timeout_graceful_shutdown=math.ceil(grace)
            )
        )

        def stop(*_: Any) -> None:
            server.should_exit = True

        # While it runs uvicorn takes signals itself. Here they are taken before that, and after it, when it
        # sends them on to who had them first.
        before = {kind: signal.signal(kind, stop) for kind in (signal.SIGTERM, signal.SIGINT)}
        try:
            if say is not None:
                shown = f"[{host}]" if ":" in host else host
                say(f"serving at http://{shown}:{listening.getsockname()[1]}")
            server.run(sockets=[listening])
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)


def _answer_errors(application: FastAPI) -> None:
    """Errors of all kinds in one form."""

    @application.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _json({"error": str(error)}, error.status, error.headers)

    @application.exception_handler(SchemaError)
    async def unfit(request: Request, error: SchemaError) -> Response:
        return _json({"error": " ".join(str(error).split())}, 400)

    @application.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _json({"error": f"{first['loc'][-1]}: {first['msg']}."}, 400)

    @application.exception_handler(StarletteHTTPException)
    async def lost(request: Request, error: StarletteHTTPException) -> Response:
        words = f"{request.method} {request.url.path}: {error.detail}."
        return _json({"error": words}, error.status_code, error.headers)


class _Measured:
    """Tells the metrics of each request."""

    def __init__(self, application: ASGIApp, metrics: Metrics) -> None:
        self.application, self.metrics = application, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.application(scope, receive, sent)
        finally:
            path = getattr(scope.get("route"), "path", "none")
            self.metrics.request(path, status, time.perf_counter() - start)


def _named(models: Any) -> dict[str, Any]:
    if isinstance(models, Mapping):
        named = {str(name): model for name, model in models.items()}
    else:
        several = models if isinstance(models, Sequence) and not isinstance(models, str | bytes) else [models]
        named = {}
        for model in several:
            name = Path(model).stem if isinstance(model, str | os.PathLike) else "model"
            if name in named:
                raise ValueError(f"two models are called {name!r}: give a dict of names and files.")
            named[name] = model
    if not named:
        raise ValueError("models is empty: there is nothing to serve.")
    return named


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:  # of text, of numbers of too many digits, of deep nesting
        raise SchemaError(f"the request is no JSON that can be read: {error}.") from error


def _json(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Response(text, status, headers=dict(headers or {}), media_type="application/json")
