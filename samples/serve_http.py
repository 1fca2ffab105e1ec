"""Serve a model of flights over HTTP, and ask it as a program of any language would.

    python samples/serve_http.py

A detector learns from flights of 2013 and is exported; `lookalike serve` answers in a process of its own.
Needs `pip install "lookalike[demo,cli,serve]"`.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from nycflights import read_flights

import lookalike as la

COLUMNS = ["carrier", "origin", "dest", "distance", "dep_delay", "arr_delay", "air_time"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="flights to learn from")
    parser.add_argument("--steps", type=int, default=None, help="steps of training")
    args = parser.parse_args()
    flights = read_flights()[COLUMNS]
    learned = flights.sample(args.rows, random_state=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flights.onnx"
        la.Detector(max_steps=args.steps, random_state=0).fit(learned).export(path)
        command = [
            sys.executable,
            "-m",
            "lookalike.cli",
            "serve",
            str(path),
            "--port",
            "0",
            "--max-rows",
            "1000",
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            try:
                ask_about(flights, address_of(server))
            finally:
                server.send_signal(signal.SIGTERM)
        print(f"The server ended with {server.returncode}.")


def address_of(server: subprocess.Popen[str]) -> str:
    """Where it serves, which it says once it does."""
    assert server.stderr is not None
    said = server.stderr.readline()
    found = re.search("http://.*", said)
    if found is None:
        raise SystemExit(f"The server did not start: {said}{server.stderr.read()}")
    return found[0]


def ask_about(flights: Any, address: str) -> None:
    today = flights.dropna().tail(200)
    rows = json.loads(today.to_json(orient="records"))  # missing values as null
    odd = {**rows[0], "dest": "HNL", "air_time": 95}  # to Honolulu in an hour and a half
    answer = asked(f"{address}/models/flights/explain?top=2", [odd, *rows])["rows"]
    first = answer[0]
    print(f"To {odd['dest']} in {odd['air_time']} minutes: p = {first['p_value']:.4f}", end=" ")
    print(f"because of {first['reason_1']} and {first['reason_2']}")
    print(f"{sum(row['is_anomaly'] for row in answer[1:])} of {len(rows)} others are anomalies")
    try:
        asked(f"{address}/models/flights/score", [{**odd, "air_time": "long"}])
    except HTTPError as error:
        print(f"{error.code}: {json.loads(error.read())['error']}")
    with urlopen(f"{address}/metrics", timeout=30) as metrics:  # noqa: S310
        print(*re.findall("^lookalike_rows_total.*", metrics.read().decode(), re.MULTILINE))


def asked(url: str, rows: list[dict[str, Any]]) -> Any:
    request = Request(url, json.dumps(rows).encode(), {"content-type": "application/json"})  # noqa: S310
    with urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.load(answer)


if __name__ == "__main__":
    main()
