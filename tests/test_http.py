"""The HTTP service, by a real client through uvicorn on the loopback: protocols, limits, metrics."""

import contextlib
import inspect
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import uvicorn

from lookalike import cli, runtime
from lookalike.integrations import http
from lookalike.integrations.scorer import Scorer

NEW = ["anomaly_score", "p_value", "is_anomaly"]
ARROW = {"content-type": http.ARROW}


@contextlib.contextmanager
def serving(application):
    """A client of an application that uvicorn serves."""
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(people_file):
    with serving(http.app(people_file)) as client:
        yield client


@pytest.fixture(scope="module")
def wanted(people_file, rows):
    return Scorer(people_file)(rows)


def records_of(frame):
    """Rows as a client would send them."""
    return json.loads(frame.to_json(orient="records", date_format="iso", date_unit="s"))


@pytest.fixture(scope="module")
def records(rows):
    # Durations as text: JSON has none, and pandas would write ISO 8601 periods.
    return records_of(rows.assign(wait=rows["wait"].astype(str)))


def test_rows_of_json_are_scored_as_in_process(client, records, wanted):
    for body in (records, {"rows": records}):
        answer = client.post("/models/people/score", json=body)
        assert answer.status_code == 200, answer.text
        found = pd.DataFrame(answer.json()["rows"])
        assert list(found) == NEW
        np.testing.assert_array_equal(found["p_value"], wanted["p_value"])
        np.testing.assert_array_equal(found["anomaly_score"], wanted["anomaly_score"])
        np.testing.assert_array_equal(found["is_anomaly"], wanted["is_anomaly"])
    assert client.post("/models/people/score", json=[]).json() == {"rows": []}


def test_a_stream_of_arrow_comes_back_with_columns(client, rows, wanted):
    table = pa.Table.from_pandas(rows, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=40)
    answer = client.post("/models/people/explain?top=1", content=bytes(sink.getvalue()), headers=ARROW)
    assert answer.headers["content-type"] == http.ARROW
    scored = pa.ipc.open_stream(answer.content).read_all()
    assert scored.select(table.column_names).equals(table)
    assert scored.select(NEW).to_pandas().equals(wanted[NEW].reset_index(drop=True))
    odd = scored["is_anomaly"].to_numpy()
    assert [reason is not None for reason in scored["reason_1"].to_pylist()] == odd.tolist()


def test_anomalies_are_explained(client, people_file, records, rows):
    (odd,) = [Scorer(people_file, reasons=2)(rows)]
    found = client.post("/models/people/explain", json=records, params={"top": 2}).json()["rows"]
    assert [row["reason_2"] for row in found] == [None if pd.isna(r) else r for r in odd["reason_2"]]
    assert any(row["reason_1"] for row in found)


def test_the_open_inference_protocol(client, people_file, rows, wanted):
    about = client.get("/v2/models/people").json()
    kinds = {tensor["name"]: tensor["datatype"] for tensor in about["inputs"]}
    assert (kinds["income"], kinds["age"], kinds["member"], kinds["city"]) == (
        "FP64",
        "INT64",
        "BOOL",
        "BYTES",
    )
    assert "key" not in kinds
    text = rows.assign(wait=rows["wait"].astype(str), since=rows["since"].astype(str))
    data = {name: [None if pd.isna(v) else v for v in text[name].astype(object)] for name in kinds}
    inputs = [
        {"name": name, "shape": [len(rows), 1], "datatype": kinds[name], "data": values}
        for name, values in data.items()
    ]
    asked = {"id": "42", "inputs": inputs, "outputs": [{"name": "p_value"}]}
    answer = client.post("/v2/models/people/infer", content=json.dumps(asked, default=float)).json()
    assert (answer["model_name"], answer["id"]) == ("people", "42")
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("p_value", "FP64", [len(rows)])
    np.testing.assert_array_equal(output["data"], wanted["p_value"])
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/people/ready"):
        assert client.get(path).status_code == 200
    assert client.get("/v2").json()["name"] == "lookalike"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("[{", "Expecting"),
        (b"\xff", "can't decode"),
        ("[" * 100_000, "recursion"),
        ("[" + "9" * 5000 + "]", "4300 digits"),
        ('{"a": 1}', "a list of rows was expected"),
        ("[3]", "row 0 of the request is no object"),
        ('[{"age": 3}]', "the request has no column"),
        (
            {"income": "much"},
            "column 'income' holds 'much' in row 1 of the request, where a number was expected",
        ),
        ({"income": None}, "'income' is missing (NaN or null) in row 1"),
        ({"income": float("nan")}, "'income' is missing (NaN or null) in row 1"),
        ({"income": float("inf")}, "column 'income' holds inf"),
        ({"age": 3.5}, "column 'age' holds 3.5 in row 1 of the request, where a whole number"),
        ({"age": float("inf")}, "column 'age' holds inf in row 1 of the request, where a whole number"),
        ({"age": 10**30}, "column 'age' of the request cannot be read"),
        ({"age": True}, "column 'age' holds True"),
        ({"since": "soon"}, "column 'since' holds 'soon' in row 1 of the request, where a time such as"),
        ({"since": 3}, "column 'since' holds 3 in row 1 of the request, where text, of a time"),
        ({"member": "yes"}, "where true or false was expected"),
        ({"city": ["Oslo"]}, "column 'city' holds ['Oslo']"),
        ({"city": "\ud800"}, "column 'city' of the request cannot be read"),
    ],
)
def test_rows_that_do_not_fit_are_named(client, records, body, words):
    if isinstance(body, dict):
        body = json.dumps([records[0], records[1] | body])
    answer = client.post("/models/people/score", content=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_missing_values_may_be_null_nan_or_left_out(client, records):
    whole = {**records[0], "debt": 0}
    ways = [
        {**whole, "debt": None},
        {**whole, "debt": float("nan")},
        {n: whole[n] for n in whole if n != "debt"},
    ]
    answer = client.post("/models/people/score", content=json.dumps([whole, *ways]))
    scores = [row["anomaly_score"] for row in answer.json()["rows"]]
    assert len(set(scores[1:])) == 1
    assert scores[0] != scores[1]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([], "an object was expected, got list"),
        ({}, '"inputs" was expected'),
        ({"inputs": 3}, '"inputs" must be a list'),
        ({"inputs": [3]}, 'each of "inputs" needs: data, name, shape'),
        ({"inputs": [{"name": "age", "shape": [2], "data": [1]}]}, "'age' has shape [2] and 1 values"),
        ({"inputs": [{"name": "age", "shape": [1], "data": 1}]}, "the data of 'age' is no list"),
        (
            {
                "inputs": [
                    {"name": name, "shape": [n], "data": [1] * n} for name, n in (("age", 1), ("debt", 2))
                ]
            },
            "different numbers of rows: [1, 2]",
        ),
        ({"inputs": [{"name": "age", "shape": [1], "data": [1]}]}, "the request has no column"),
        ({"outputs": [3]}, 'each of "outputs" needs: name'),
        ({"outputs": [{"name": "p"}]}, "there is no output 'p'. There are: anomaly_score"),
    ],
)
def test_requests_of_the_protocol_that_do_not_fit_are_told_why(client, records, asked, words):
    if "outputs" in asked:
        asked["inputs"] = [{"name": n, "shape": [1], "data": [value]} for n, value in records[0].items()]
    answer = client.post("/v2/models/people/infer", json=asked)
    assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text


def test_streams_that_are_broken_or_compressed_are_refused(client, rows):
    table = pa.Table.from_pandas(rows, preserve_index=False)

    def send(table, **options):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
            writer.write_table(table)
        return client.post("/models/people/score", content=bytes(sink.getvalue()), headers=ARROW)

    offsets = pa.py_buffer(np.array([0, 2**30] + [4] * (len(rows) - 1), np.int32))
    wild = pa.StringArray.from_buffers(len(rows), offsets, pa.py_buffer(b"Oslo"))  # points beyond its bytes
    for answer, words in (
        (send(table.set_column(table.column_names.index("city"), "city", wild)), "no sound Arrow stream"),
        (send(table, compression="zstd"), "compressed"),
        (send(table.append_column("d", table["city"].dictionary_encode()), compression="lz4"), "compressed"),
        (client.post("/models/people/score", content=b"junk", headers=ARROW), "no sound Arrow stream"),
        (send(table.drop_columns("age")), "no column 'age'"),
        (send(table.append_column("p_value", table["age"])), "has a column 'p_value' already"),
    ):
        assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text
    assert send(table.append_column("d", table["city"].dictionary_encode())).status_code == 200


def test_what_is_not_there_or_too_large_is_said(people_file, records):
    application = http.app({"a": people_file.read_bytes()}, max_bytes=2000, max_rows=3)
    with serving(application) as client:
        lost = client.post("/models/b/score", json=[])
        assert (lost.status_code, lost.json()) == (404, {"error": "there is no model 'b'. There are: a."})
        many = client.post("/models/a/score", json=[{}] * 4)
        assert (many.status_code, "4 rows, and 3 are allowed" in many.text) == (413, True)
        large = client.post("/models/a/score", json=records)
        assert (large.status_code, "bytes, and 2,000 are allowed" in large.text) == (413, True)
        unsaid = client.post("/models/a/score", content=(b"x" * 500 for _ in range(9)))
        assert (unsaid.status_code, "more than 2,000 bytes" in unsaid.text) == (413, True)
        for top, words in (("0", "from 1 to 100, got 0"), ("many", "top: Input should be a valid integer")):
            answer = client.post(f"/models/a/explain?top={top}", json=[])
            assert (answer.status_code, words in answer.json()["error"]) == (400, True)
        for method, path, status in (("GET", "/models/a/score", 405), ("GET", "/nowhere", 404)):
            answer = client.request(method, path)
            assert (answer.status_code, path in answer.json()["error"]) == (status, True)
        assert client.get("/models/a/score").headers["allow"] == "POST"
        assert [client.head(path).status_code for path in ("/nowhere", "/models/a/score")] == [404, 405]


def test_what_cannot_be_served_is_refused_at_once(people_file):
    with pytest.raises(ValueError, match="two models are called 'people'"):
        http.app([people_file, people_file])
    with pytest.raises(ValueError, match="models is empty"):
        http.app({})
    with pytest.raises(ValueError, match="max_running must be a whole number of at least 1, got 0"):
        http.app(people_file, max_running=0)


def test_two_models_are_served_at_once(people_file, records, wanted):
    loose = runtime.load(people_file).set_threshold(false_alarm_rate=0.4)
    with serving(http.app({"usual": people_file, "loose": loose})) as client:
        assert client.get("/v2").json()["models"] == ["usual", "loose"]
        paths = ["/models/usual/score", "/models/loose/score"] * 4
        with ThreadPoolExecutor(8) as pool:
            answers = [*pool.map(lambda path: client.post(path, json=records).json()["rows"], paths)]
    odd = [sum(row["is_anomaly"] for row in rows) for rows in answers]
    assert odd == [wanted["is_anomaly"].sum(), (wanted["p_value"] <= 0.4).sum()] * 4


class Held:
    """Makes scorers that wait until they are let go."""

    def __init__(self):
        self.entered, self.gate, self.begun = threading.Semaphore(0), threading.Event(), 0

    def __call__(self, *args, **options):
        held = self

        class Slow(Scorer):
            def added(self, rows):
                if rows.num_rows:
                    held.begun += 1
                    held.entered.release()
                    assert held.gate.wait(30)
                return super().added(rows)

        return Slow(*args, **options)


def test_too_many_at_a_time_are_refused_and_the_late_are_told(people_file, records, wanted, monkeypatch):
    held = Held()
    monkeypatch.setattr(http, "Scorer", held)
    application = http.app({"slow": people_file}, max_running=1, max_waiting=1, timeout=2)
    few, path = records[:3], "/models/slow/score"
    with serving(application) as client, ThreadPoolExecutor(4) as pool:
        first = pool.submit(client.post, path, json=few)
        assert held.entered.acquire(timeout=30)
        others = [pool.submit(client.post, path, json=few) for _ in range(2)]  # one may wait
        late, refused = sorted((one.result(30) for one in others), key=lambda one: -one.status_code)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert (late.status_code, "no answer within 2 seconds" in late.text) == (503, True)
        assert first.result(30).status_code == 503
        held.gate.set()  # the thread that was late is done, and others are served as ever
        for _ in range(20):
            answer = client.post(path, json=few)
            assert answer.status_code == 200
            assert [row["p_value"] for row in answer.json()["rows"]] == wanted["p_value"][:3].tolist()
    assert held.begun == 21  # the one that waited had been left out


def test_the_work_of_clients_that_have_gone_is_left_out(people_file, records, monkeypatch):
    held = Held()
    monkeypatch.setattr(http, "Scorer", held)
    application = http.app({"slow": people_file}, max_running=1, max_waiting=2, timeout=30)
    path, few = "/models/slow/score", records[:3]
    with serving(application) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, path, json=few)
        assert held.entered.acquire(timeout=30)
        for _ in range(10):  # more than may wait, if those that go left their places taken
            with pytest.raises(httpx.ReadTimeout):
                client.post(path, json=few, timeout=0.3)
        with socket.create_connection((client.base_url.host, client.base_url.port)) as half:
            head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n[".encode()
            half.sendall(head)
            time.sleep(0.2)
        held.gate.set()
        assert first.result(30).status_code == 200
        assert client.post(path, json=few).status_code == 200
        text = client.get("/metrics").text
    assert held.begun == 2
    assert 'lookalike_requests_total{path="/models/{name}/score",status="499"} 11.0' in text


def test_prometheus_is_told(people_file, records, wanted):
    with serving(http.app(people_file)) as client:
        client.post("/models/people/score", json=records)
        client.post("/models/people/score", content="[")
        for i in range(50):  # what does not exist makes no labels
            client.get(f"/nowhere/{i}")
            client.post(f"/models/{i}/score", json=[])
            client.request(f"VERB{i}", "/metrics")
        text = client.get("/metrics").text
    score = 'path="/models/{name}/score"'
    for line in (
        f'lookalike_rows_total{{model="people"}} {len(records)}.0',
        f'lookalike_anomalies_total{{model="people"}} {wanted["is_anomaly"].sum()}.0',
        f'lookalike_requests_total{{{score},status="200"}} 1.0',
        f'lookalike_requests_total{{{score},status="400"}} 1.0',
        f'lookalike_requests_total{{{score},status="404"}} 50.0',
        f'lookalike_p_value_count{{model="people"}} {len(records)}.0',
        f'lookalike_p_value_bucket{{le="0.1",model="people"}} {(wanted["p_value"] <= 0.1).sum()}.0',
    ):
        assert line in text
    assert sum(line.startswith("lookalike_requests_total") for line in text.splitlines()) <= 6


def test_scores_are_right_under_many_clients(client, records, wanted):
    parts = [(i, records[i : i + 5]) for i in range(0, 145, 5)] * 4

    def ask(part):
        i, some = part
        answer = client.post("/models/people/score", json=some)
        assert answer.status_code == 200, answer.text
        return [row["p_value"] for row in answer.json()["rows"]] == wanted["p_value"][i : i + 5].tolist()

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, parts))


def test_under_more_load_than_it_takes_every_answer_is_right_or_says_so(people_file, records, wanted):
    application = http.app(people_file, max_running=1, max_waiting=2)
    end = time.monotonic() + 4

    def ask(client, number):
        rng, found = np.random.default_rng(number), []
        while time.monotonic() < end and len(found) < 2000:
            i = int(rng.integers(0, 140))
            answer = client.post("/models/people/score", json=records[i : i + 10])
            right = answer.status_code == 200 and (
                [row["p_value"] for row in answer.json()["rows"]] == wanted["p_value"][i : i + 10].tolist()
            )
            found.append("right" if right else answer.status_code)
        return found

    with serving(application) as client, ThreadPoolExecutor(24) as pool:
        found = Counter(itertools.chain(*pool.map(lambda number: ask(client, number), range(24))))
    assert set(found) <= {"right", 429, 503}
    assert found["right"] > 20
    assert found[429] > 20


def test_serving_loads_no_torch():
    code = "import sys, lookalike.integrations.http; print('torch' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr


def test_the_command_serves_until_it_is_told_to_stop(people_file, records, wanted):
    command = [
        sys.executable,
        "-m",
        "lookalike.cli",
        "serve",
        str(people_file),
        f"b={people_file}",
        "--port=0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = re.search("http://([^:]+):([0-9]+)", process.stderr.readline())
            with httpx.Client(base_url=url[0], timeout=30) as client:
                assert client.get("/v2").json()["models"] == ["people", "b"]
            body = json.dumps(records).encode()
            with socket.create_connection((url[1], int(url[2])), timeout=30) as half:
                head = "POST /models/b/score HTTP/1.1\r\nHost: b\r\nConnection: close\r\n"
                half.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:100])
                time.sleep(0.3)
                process.send_signal(signal.SIGTERM)
                time.sleep(0.3)
                half.sendall(body[100:])  # what is running is answered
                answer = b"".join(iter(lambda: half.recv(1 << 16), b""))
            assert answer.startswith(b"HTTP/1.1 200")
            found = json.loads(answer.partition(b"\r\n\r\n")[2])["rows"]
            assert [row["p_value"] for row in found] == wanted["p_value"].tolist()
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_the_command_says_what_hinders_it(people_file, capfd, monkeypatch):
    name = str(people_file)
    assert cli.main(["serve", name, name]) == 1
    assert "two models are called 'people'" in capfd.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.main(["serve", name, f"--port={taken.getsockname()[1]}"]) == 1
    assert "Address already in use" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["serve", name]) == 1
    assert 'needs uvicorn. Install it with: pip install "lookalike[serve]"' in capfd.readouterr().err


def test_the_limits_of_the_command_are_those_of_the_application():
    command, application = (inspect.signature(each).parameters for each in (cli.serve, http.app))
    for name in application.keys() - {"models"}:
        assert command[name].default == application[name].default
