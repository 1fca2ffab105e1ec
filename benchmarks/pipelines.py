"""Systems that score with an exported model, beside the runtime alone in the same run.

    python benchmarks/pipelines.py                     # all parts
    python benchmarks/pipelines.py http --seconds 60   # one of them
    python benchmarks/pipelines.py kafka --write       # and keep what is printed, in benchmarks/results
    python benchmarks/pipelines.py files --peers python3.11

frames, clusters, files (`many_rows.py`): flights of 2013 again and again, up to `--rows`, through Arrow and
polars, through Spark and Ray, and by `lookalike score` from Parquet to Parquet beside PyOD's IForest.

The model of the others is a `Detector` of 8 numbers and 3 texts, exported, on one thread.

http: `lookalike serve` in a process of its own, and clients of this process that each send the next request
once the last is answered. Every answer is compared, byte for byte, with what the runtime says of the same
rows. Then more clients than there are places, of whom those that are turned away ask again after 10 ms.

kafka: a `Worker` in a process of its own, killed in the middle of a transaction and started again; what
``read_committed`` shows afterwards is counted. The broker is that of the tests, in this process, in memory.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import many_rows
import numpy as np
import pandas as pd

import lookalike as la
from lookalike import runtime

HERE = Path(__file__).resolve().parent
LEVELS = [f"level {i}" for i in range(12)]


class Report:
    """Prints lines, and keeps them."""

    def __init__(self, part: str) -> None:
        self.lines: list[str] = []
        self.path = HERE / "results" / f"pipelines_{part}.txt"
        self(f"$ python benchmarks/pipelines.py {' '.join(sys.argv[1:])}")
        load, cores = os.getloadavg()[0], os.cpu_count()
        self(f"onnxruntime {metadata.version('onnxruntime')}; load {load:.1f} on {cores} cores when it began")

    def __call__(self, line: str = "") -> None:
        self.lines.append(line)
        print(line, flush=True)

    def keep(self) -> None:
        self.lines.append(f"load {os.getloadavg()[0]:.1f} when it ended")
        self.path.write_text("\n".join(self.lines) + "\n")


def table(n: int, seed: int = 0) -> pd.DataFrame:
    """Rows of 8 numbers and 3 texts."""
    rng = np.random.default_rng(seed)
    numbers = pd.DataFrame(rng.normal(size=(n, 8)).round(6), columns=[f"n{i}" for i in range(8)])
    return numbers.assign(**{f"t{i}": rng.choice(LEVELS, n) for i in range(3)})


def exported(folder: str) -> Path:
    path = Path(folder) / "model.onnx"
    la.Detector(max_steps=200, random_state=0).fit(table(2000)).export(path)
    return path


# ---- http --------------------------------------------------------------------------------------------------


@contextmanager
def served(path: Path, *options: str) -> Iterator[str]:
    """The address of a server of its own process."""
    command = [sys.executable, "-m", "lookalike.cli", "serve", str(path), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = re.search("http://(.*)", process.stderr.readline())
        try:
            assert found is not None, "the server did not start"
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, "the server did not stop as it should"


def load(address: str, clients: int, seconds: float, body: bytes, kind: str, wanted: bytes) -> dict[str, Any]:
    """What clients met with for so long: seconds of right answers, and statuses."""
    end = time.perf_counter() + seconds

    def ask(_: int) -> tuple[list[float], list[Any]]:
        connection = http.client.HTTPConnection(address, timeout=60)
        times, others = [], []
        while (start := time.perf_counter()) < end and len(times) < 1_000_000:
            try:
                connection.request("POST", "/models/model/score", body, {"content-type": kind})
                answer = connection.getresponse()
                said = answer.read()
            except OSError as error:
                others.append(type(error).__name__)
                connection.close()
                continue
            if answer.status == 200 and said == wanted:
                times.append(time.perf_counter() - start)
            else:
                others.append("wrong answer" if answer.status == 200 else answer.status)
                time.sleep(0.01)
        connection.close()
        return times, others

    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(ask, range(clients)))
    times = sorted(itertools.chain.from_iterable(times for times, _ in found))
    return {"times": times, "others": Counter(itertools.chain.from_iterable(others for _, others in found))}


def median_of(call: Callable[[], Any], seconds: float = 2.0) -> float:
    call()
    times: list[float] = []
    while sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_http(report: Report, args: argparse.Namespace) -> None:
    import pyarrow as pa

    from lookalike.integrations import streams
    from lookalike.integrations.http import ARROW
    from lookalike.integrations.scorer import Scorer

    versions = (f"{name} {metadata.version(name)}" for name in ("uvicorn", "fastapi"))
    report(f"{', '.join(versions)}; {args.seconds:g} s each")
    with tempfile.TemporaryDirectory() as folder:
        path = exported(folder)
        model, scorer = runtime.load(path, threads=1), Scorer(path)

        def request(n: int, kind: str) -> tuple[bytes, bytes]:
            frame = table(n, 1)
            if kind == ARROW:
                rows = pa.Table.from_pandas(frame, preserve_index=False)
                return streams.written(rows), streams.written(scorer(rows))
            added = pd.DataFrame(scorer.added(frame)).to_dict(orient="records")
            answer = json.dumps({"rows": added}, separators=(",", ":"))
            return json.dumps(frame.to_dict(orient="records")).encode(), answer.encode()

        def run(address: str, clients: int, n: int, kind: str) -> None:
            body, wanted = request(n, kind)
            found = load(address, clients, args.seconds, body, kind, wanted)
            times, others = found["times"], found["others"]
            p50, p99 = (1e3 * times[int(len(times) * share)] for share in (0.5, 0.99))
            bare = 1e3 * median_of(lambda: model.score_samples(columns[n]))
            refused = others.pop(429, 0) + others.pop(503, 0)
            name, speed = "Arrow" if kind == ARROW else "JSON", len(times) / args.seconds
            report(
                f"{clients:3d} clients, {n:5,d} rows, {name:5s}: p50 {p50:7.1f} ms, p99 {p99:7.1f} ms, "
                f"{speed:7,.0f} requests/s, {n * speed:9,.0f} rows/s; "
                f"refused {refused:,}, failed {dict(others) or 0}; the runtime alone {bare:.2f} ms"
            )

        columns = {n: table(n, 1) for n in (1, 1000)}
        with served(path) as address:
            for clients in (1, 8, 64):
                run(address, clients, 1, "application/json")
            for kind in ("application/json", ARROW):
                run(address, 8, 1000, kind)
        report("Overload: one request is computed, four wait")
        with served(path, "--max-running", "1", "--max-waiting", "4") as address:
            run(address, 64, 1, "application/json")


# ---- kafka -------------------------------------------------------------------------------------------------

WORKER = """
import json, signal, sys
from lookalike.integrations.kafka import Worker
worker = Worker(sys.argv[1], "in", "out", group="g", instance="one", config=json.loads(sys.argv[2]))
signal.signal(signal.SIGTERM, lambda *_: worker.stop())
worker.run()
"""


def measure_kafka(report: Report, args: argparse.Namespace) -> None:
    sys.path.append(str(HERE.parent / "tests"))
    import broker
    from confluent_kafka import Consumer, Producer, TopicPartition

    n = args.records
    report(
        f"confluent-kafka {metadata.version('confluent-kafka')}; {n:,} records, a batch of 500 a transaction"
    )
    with tempfile.TemporaryDirectory() as folder, broker.Broker() as server:
        path, config = exported(folder), {"bootstrap.servers": server.address, "log_level": 0}
        rows = table(n, 1)
        values = [json.dumps(row).encode() for row in rows.assign(number=range(n)).to_dict(orient="records")]
        producer = Producer(config)
        for i, value in enumerate(values):
            producer.produce("in", value, partition=i % server.partitions)
            if i % 10_000 == 0:
                producer.flush()
        producer.flush()
        command = [sys.executable, "-c", WORKER, str(path), json.dumps(config)]

        def read_to() -> int:
            return sum(server.offsets.values())

        def work(until: int, kill: bool) -> tuple[int, float]:
            """Records and seconds between the first commit of a worker and its last."""
            before, first, last, process = read_to(), (0, 0.0), (0, 0.0), subprocess.Popen(command)

            def ending(answer: Callable[[], bytes]) -> bytes:
                if kill and read_to() >= until:
                    process.kill()
                    raise ConnectionError  # what it asked for is not done
                said = answer()
                nonlocal first, last
                last = read_to(), time.perf_counter()
                first = first if first[1] else last
                return said

            server.hooks = {broker.END_TRANSACTION: ending}
            deadline = time.monotonic() + 600
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
                if not kill and read_to() >= until:
                    process.terminate()
                    process.wait(60)
            process.kill()
            report(f"worker: {read_to() - before:,} records, ended with {process.wait()}")
            return last[0] - first[0], last[1] - first[1]

        killed, whole = work(n // 2, True), work(n, False)
        speed = [f"{records / seconds:,.0f}" for records, seconds in (killed, whole)]
        report(f"records a second: {speed[0]} until it was killed, {speed[1]} after")
        batch = rows.head(500)
        model = runtime.load(path, threads=1)
        bare = 500 / median_of(lambda: model.score_samples(batch))
        report(f"the runtime alone, 500 rows at a time: {bare:,.0f} rows a second")
        for isolation in ("read_committed", "read_uncommitted"):
            consumer = Consumer({**config, "group.id": isolation, "isolation.level": isolation})
            consumer.assign([TopicPartition("out", i, 0) for i in range(server.partitions)])
            found: Counter[int] = Counter()
            while messages := consumer.consume(10_000, 2.0):
                found.update(json.loads(message.value() or b"")["number"] for message in messages)
            consumer.close()
            lost, twice = n - len(found), sum(count > 1 for count in found.values())
            report(f"{isolation}: {lost:,} lost, {twice:,} twice")


PARTS = {"http": measure_http, "kafka": measure_kafka, **many_rows.PARTS}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=20, help="of each load of http")
    parser.add_argument("--records", type=int, default=100_000, help="of kafka")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of files; a tenth and a half of others")
    parser.add_argument("--peers", default="", help="an interpreter to make PyOD's environment from")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/pipelines_PART.txt")
    args = parser.parse_args()
    for part in args.parts:
        if part not in PARTS:
            parser.error(f"{part!r} is none of {', '.join(PARTS)}")
        report = Report(part)
        PARTS[part](report, args)
        if args.write:
            report.keep()


if __name__ == "__main__":
    sys.exit(main())
