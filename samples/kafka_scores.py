"""Score flights on their way from one Kafka topic to another, and set aside those that cannot be scored.

    python samples/kafka_scores.py
    python samples/kafka_scores.py --brokers localhost:9092

Without brokers, librdkafka's own mock cluster is the broker, in this process. Needs
`pip install "lookalike[demo,kafka]"`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from nycflights import read_flights

import lookalike as la
from lookalike.integrations.kafka import Worker

COLUMNS = ["carrier", "origin", "dest", "distance", "dep_delay", "arr_delay", "air_time"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brokers", default="", help="such as localhost:9092")
    parser.add_argument("--rows", type=int, default=20_000, help="flights to learn from")
    parser.add_argument("--steps", type=int, default=None, help="steps of training")
    args = parser.parse_args()
    mocked = {"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 0}
    mock = None if args.brokers else Producer(mocked)
    config = {"bootstrap.servers": args.brokers or addresses(mock), "log_level": 0}

    flights = read_flights()[COLUMNS]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flights.onnx"
        learned = flights.sample(args.rows, random_state=0)
        la.Detector(max_steps=args.steps, random_state=0).fit(learned).export(path)
        worker = Worker(
            path, "flights", "scored", group="scoring", config=config, dead_letters="refused", reasons=1
        )

    today = flights.dropna().tail(1000)
    values = [json.dumps(row) for row in json.loads(today.to_json(orient="records"))]
    values[500] = values[500].replace('"air_time"', '"airtime"')  # somebody renamed a field
    producer = Producer(config)
    for number, value in enumerate(values):
        producer.produce("flights", value, key=str(number))
    producer.flush()

    counts = worker.run(idle=1)  # by itself it runs until worker.stop()
    print(f"{counts.scored} flights scored, {counts.anomalies} anomalies, {counts.refused} refused")
    scored = [json.loads(message.value()) for message in read(config, "scored")]
    oddest = max(scored, key=lambda flight: flight["anomaly_score"])
    print(f"the oddest, because of its {oddest['reason_1']}:")
    print(json.dumps(oddest, indent=1))
    for letter in read(config, "refused"):
        print(
            f"refused: number {letter.key().decode()}, {dict(letter.headers())['lookalike.error'].decode()}"
        )


def addresses(mock: Any) -> str:
    """Of the brokers of a mock cluster, which lives as long as its producer."""
    return ",".join(f"{one.host}:{one.port}" for one in mock.list_topics(timeout=10).brokers.values())


def read(config: dict[str, Any], topic: str) -> list[Any]:
    """What is committed in a topic."""
    consumer = Consumer({**config, "group.id": "reader", "isolation.level": "read_committed"})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    found = []
    while messages := consumer.consume(1000, timeout=1.0):
        found += messages
    consumer.close()
    return found


if __name__ == "__main__":
    main()
