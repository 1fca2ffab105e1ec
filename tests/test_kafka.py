"""Kafka: nothing lost, nothing twice, bad records set aside.

What every broker does is tested with librdkafka's own mock cluster. It takes transactions and ignores them,
so what rests on them is tested with `broker`.
"""

import json
import os
import signal
import subprocess
import sys
import time
import uuid

import broker
import numpy as np
import pandas as pd
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

import lookalike as la
from lookalike import runtime
from lookalike.integrations.kafka import RETRIES, Worker
from lookalike.integrations.scorer import Scorer

QUIET = {"log_level": 0}


@pytest.fixture(scope="module")
def cluster():
    """A broker that keeps its promises, and settings to reach it."""
    with broker.Broker() as server:
        yield server, {"bootstrap.servers": server.address, **QUIET}


@pytest.fixture(scope="module")
def records(rows):
    frame = rows.assign(wait=rows["wait"].astype(str), since=rows["since"].astype(str))
    return [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in frame.astype(object).to_dict(orient="records")
    ]


def send(config, topic, values, **more):
    producer = Producer(config)
    for i, value in enumerate(values):
        value = value if isinstance(value, bytes | None) else json.dumps(value, default=float).encode()
        producer.produce(topic, value, f"key {i}", **more)
    assert producer.flush(30) == 0


def read(config, topic, n, isolation="read_committed"):
    """The messages of a topic: n are waited for, and none may follow."""
    group = {"group.id": str(uuid.uuid4()), "isolation.level": isolation, "enable.auto.commit": False}
    consumer = Consumer({**config, **group})
    partitions = consumer.list_topics(topic, 30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, i, 0) for i in partitions])
    found, deadline = [], time.monotonic() + 30
    while time.monotonic() < deadline:
        more = consumer.consume(500, 0.3)
        assert [message.error() for message in more if message.error()] == []
        found += more
        if len(found) >= n and not more:
            break
    consumer.close()
    return found


def test_records_come_out_scored_with_key_headers_and_time(people_file, records, rows):
    mock = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 2, **QUIET})
    addresses = (f"{b.host}:{b.port}" for b in mock.list_topics(timeout=30).brokers.values())
    config = {"bootstrap.servers": ",".join(addresses), **QUIET}
    send(config, "in", records, headers=[("trace", b"7")], timestamp=1_700_000_000_000)
    worker = Worker(people_file, "in", "out", group="g", config=config, batch_size=64, reasons=1)
    counts = worker.run(idle=1)
    wanted = Scorer(people_file, reasons=1)(rows)
    assert (counts.scored, counts.refused, counts.anomalies) == (len(rows), 0, wanted["is_anomaly"].sum())
    found = {message.key().decode(): message for message in read(config, "out", len(rows))}
    assert len(found) == len(rows)
    for i, (_, row) in enumerate(wanted.iterrows()):
        message = found[f"key {i}"]
        said = json.loads(message.value())
        assert said["note"] == row["note"]
        assert (said["p_value"], said["is_anomaly"]) == (row["p_value"], row["is_anomaly"])
        assert said["reason_1"] == (None if pd.isna(row["reason_1"]) else row["reason_1"])
        assert message.headers() == [("trace", b"7")]
        assert message.timestamp()[1] == 1_700_000_000_000


def test_bad_records_go_to_the_dead_letters_as_they_came(cluster, people_file, records):
    bad = {
        b"{": "cannot be decoded",
        b"[1]": "no object with columns, but list",
        None: "has no value",
        json.dumps({**records[0], "age": "old"}).encode(): "column 'age' holds 'old'",
        json.dumps({**records[1], "age": 1e999}).encode(): "Infinity is no JSON",
        json.dumps({**records[2], "income": None}).encode(): "'income'",
        json.dumps({**records[3], "city": "\ud800"}).encode(): "column 'city' of the record cannot be read",
        json.dumps({n: v for n, v in records[4].items() if n != "debt"}).encode(): "has no column 'debt'",
        json.dumps({**records[5], "p_value": 1}).encode(): "has a column 'p_value' already",
        b"[" * 100_000: "cannot be decoded",
    }
    _, config = cluster
    odd = [{**records[0], "debt": float("nan"), "note": "without debt"}, {**records[0], "debt": None}]
    send(config, "mixed", [*records[:5], *bad, *records[5:9], *odd])
    worker = Worker(people_file, "mixed", "fine", group="g", config=config, dead_letters="dead")
    counts = worker.run(idle=1)
    assert (counts.scored, counts.refused) == (11, len(bad))
    fine = [json.loads(message.value()) for message in read(config, "fine", 11)]
    without = [record for record in fine if record["debt"] is None and record["note"] == "without debt"]
    assert len(without) == 1
    same = {row["p_value"] for row in fine if {**row, "note": ""} == {**without[0], "note": ""}}
    assert len(same) == 1
    dead = {int(m.key().decode().split()[1]): m for m in read(config, "dead", len(bad))}
    for i, (value, words) in enumerate(bad.items()):
        headers = dict(dead[5 + i].headers())
        assert words in headers["lookalike.error"].decode()
        assert headers["lookalike.topic"] == b"mixed"
        assert dead[5 + i].value() == value


def test_a_record_is_scored_alike_whatever_comes_with_it(people_file, records):
    # A batch that is refused is taken apart; what is said of a record does not depend on that.
    worker = Worker(people_file, "a", "b", group="g", config={}, dead_letters="c")

    class Sent:
        def __init__(self, value):
            self.value = lambda: value

    rng = np.random.default_rng(0)
    values = [json.dumps(record, default=float).encode() for record in records]
    for i in rng.choice(len(values), 20, replace=False):
        values[i] = json.dumps({**records[i], "age": "old"}, default=float).encode()
    together, bad = worker._scored([*map(Sent, values)])
    alone = [worker._scored([Sent(value)]) for value in values]
    assert [one.value for one in together] == [one.value for good, _ in alone for one in good]
    assert [one.why for one in bad] == [one.why for _, refused in alone for one in refused]
    assert len(bad) == 20


def test_without_dead_letters_a_bad_record_stops_the_worker_uncommitted(cluster, people_file, records):
    server, config = cluster
    send(config, "strict", [records[0], b"{"], partition=1)
    with pytest.raises(la.SchemaError, match="offset 1 of partition 1 of strict cannot be scored: it cannot"):
        Worker(people_file, "strict", "strict-out", group="s", config=config).run(idle=1)
    assert server.offsets.get(("s", "strict", 1)) is None
    later = Worker(people_file, "strict", "strict-out", group="s", config=config, dead_letters="strict-dead")
    assert (later.run(idle=1).refused, len(read(config, "strict-dead", 1))) == (1, 1)
    assert len(read(config, "strict-out", 1)) == 1
    assert server.offsets["s", "strict", 1] == 2


def test_a_record_too_large_once_scored_is_set_aside(cluster, people_file, records):
    _, config = cluster
    send(config, "large", [records[0], {**records[1], "note": "x" * 7950}], partition=0)
    small = {**config, "message.max.bytes": 8500}
    worker = Worker(
        people_file, "large", "small", group="l", config=small, dead_letters="oversize", reasons=9
    )
    counts = worker.run(idle=1)
    assert (counts.scored, counts.refused) == (1, 1)
    (letter,) = read(config, "oversize", 1)
    assert b"exceeds message.max.bytes" in dict(letter.headers())["lookalike.error"]


def test_what_was_aborted_is_read_again_and_in_vain_only_so_often(cluster, people_file, records):
    server, config = cluster
    send(config, "again", records[:100])
    settings = {"group": "a", "config": config, "batch_size": 30}
    server.refusals = [22, 0, 22]  # the group has moved on, twice
    assert Worker(people_file, "again", "once", **settings).run(idle=1).scored == 100
    assert len(read(config, "once", 100)) == 100
    send(config, "again", records[:1])
    server.refusals = [22] * RETRIES
    with pytest.raises(KafkaException, match="generation"):
        Worker(people_file, "again", "once", **settings).run(idle=1)
    assert server.refusals == []


def test_one_that_is_replaced_is_fenced_off(cluster, people_file, records):
    server, config = cluster
    send(config, "fence", records[:10], partition=0)

    def replaced(answer):
        server.hooks = {}
        Producer({**config, "transactional.id": "f-one"}).init_transactions(30)
        return answer()

    server.hooks = {broker.OFFSET_COMMIT: replaced}
    settings = {"group": "f", "config": config, "instance": "one"}
    with pytest.raises(KafkaException, match="code=_FENCED"):
        Worker(people_file, "fence", "fenced", **settings).run(idle=5)
    assert server.hooks == {}
    assert read(config, "fenced", 0) == []
    assert Worker(people_file, "fence", "fenced", **settings).run(idle=1).scored == 10
    assert len(read(config, "fenced", 10)) == 10


WORKER = """
import json, signal, sys
from lookalike.integrations.kafka import Worker
worker = Worker(sys.argv[1], "many", "scored", group="killed", config=json.loads(sys.argv[2]), instance="one",
                batch_size=200)
signal.signal(signal.SIGTERM, lambda *_: worker.stop())
print(worker.run().scored)
assert "torch" not in sys.modules
"""


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_none_out_and_none_twice(people_file, records):
    n = 3000
    with broker.Broker() as server:
        config = {"bootstrap.servers": server.address, **QUIET}
        send(config, "many", [{**records[i % 150], "number": i} for i in range(n)])
        command = [sys.executable, "-c", WORKER, str(people_file), json.dumps(config)]

        def worker():
            return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

        def kill_in(request, nth, after=False):
            """Kill a worker by its nth request of a kind, before the broker takes it or after that."""
            left, process = nth, worker()

            def hook(answer):
                nonlocal left
                left -= 1
                if left:
                    return answer()
                if after:
                    answer()
                os.kill(process.pid, signal.SIGKILL)
                raise ConnectionError

            server.hooks = {request: hook}
            with process:
                assert process.wait(60) == -signal.SIGKILL
            server.hooks = {}

        kill_in(broker.PRODUCE, 3)
        kill_in(broker.OFFSET_COMMIT, 2)
        kill_in(broker.END_TRANSACTION, 3)  # its records are there, and not committed
        kill_in(broker.END_TRANSACTION, 2, after=True)  # all is committed, and it was not told
        with worker() as process:
            deadline = time.monotonic() + 60
            done = 0
            while done < n and time.monotonic() < deadline:
                time.sleep(0.2)
                done = sum(offset for (group, *_), offset in server.offsets.items() if group == "killed")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert 0 < int(process.stdout.read()) < n
        numbers = [json.loads(message.value())["number"] for message in read(config, "scored", n)]
        assert sorted(numbers) == list(range(n))
        assert len(read(config, "scored", n + 1, "read_uncommitted")) > n


def test_what_a_worker_is_given_is_checked(people_file):
    with pytest.raises(ValueError, match="batch_size must be a whole number from 1"):
        Worker(people_file, "a", "b", group="g", config={}, batch_size=0)
    with pytest.raises(TypeError, match="reasons cannot be given beside a Scorer"):
        Worker(Scorer(runtime.load(people_file)), "a", "b", group="g", config={}, reasons=1)
