"""Kafka: records consumed, scored and produced, each exactly once, by a worker for each partition or fewer.

Examples
--------
>>> worker = Worker("orders.onnx", "orders", "scored", group="scoring",
...                 config={"bootstrap.servers": "broker:9092"}, dead_letters="refused")  # doctest: +SKIP
>>> worker.run()  # doctest: +SKIP
"""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from lookalike.errors import SchemaError
from lookalike.integrations.records import Record, Records, rows_of_table
from lookalike.integrations.scorer import ODD, scorer_of
from lookalike.parameters import Range

RETRIES = 5  # of a call of the brokers, and of transactions that were aborted, in a row
TIMEOUT = 30.0  # seconds that a call of the brokers may take


@dataclass(frozen=True)
class Counts:
    """What a worker has done: records scored, records sent to the dead letters, anomalies, transactions."""

    scored: int = 0
    refused: int = 0
    anomalies: int = 0
    transactions: int = 0


class _Scored(NamedTuple):
    message: Message
    value: bytes
    odd: bool


class _Refused(NamedTuple):
    message: Message
    why: str


def _constant(word: str) -> None:
    if word != "NaN":
        raise ValueError(f"{word} is no JSON")


def _decoded(value: bytes) -> Any:
    return json.loads(value, parse_constant=_constant)  # NaN, which is no JSON either, is missing


def _encoded(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()


class Worker:
    """Scores the records of a topic into another.

    A record is a JSON object with all columns of the model; a value that is missing is null. It comes out
    with what is added to it, with its key, headers and time. What it produces and how far it has read are
    committed in one transaction: a worker that dies leaves no record out and none twice for those who read
    what is committed (``isolation.level=read_committed``). It scores no more before that is done, so a slow
    target slows the reading, and 16 MB of a partition are read ahead at most.

    Parameters
    ----------
    model, **options
        As of `Scorer`, or a `Scorer`.
    source, target : str
        Topics.
    group : str
        The consumer group. Workers of one group share the partitions.
    config : mapping
        Of librdkafka, for both the consumer and the producer: ``bootstrap.servers``, security, and what is
        to replace a setting of ours.
    dead_letters : str, optional
        The topic for records that cannot be scored. They go there as they came, with the headers
        ``lookalike.error``, ``lookalike.topic``, ``lookalike.partition`` and ``lookalike.offset``. Without
        it, the first such record stops the worker with an error, and is not committed.
    instance : str, optional
        A name that no other worker has at the time. One that a worker has again after a restart ends at once
        what it left open; by default each has its own, and what it left open ends after 30 seconds.
    batch_size : int
        Records scored together at most.
    wait : float
        Seconds to wait for them.
    decode, encode : callable
        Bytes to a record, and back: for Avro, Protobuf and others. By default JSON.

    Raises
    ------
    SchemaError
        From `run`, for a record that cannot be scored where there is no topic for those.
    KafkaException
        From `run`, if the brokers cannot be reached, or fence this worker off.
    """

    def __init__(
        self,
        model: Any,
        source: str,
        target: str,
        *,
        group: str,
        config: Mapping[str, Any],
        dead_letters: str | None = None,
        instance: str | None = None,
        batch_size: int = 500,
        wait: float = 0.2,
        decode: Callable[[bytes], Any] = _decoded,
        encode: Callable[[Record], bytes] = _encoded,
        **options: Any,
    ) -> None:
        Range(1, 1_000_000, whole=True).check("batch_size", batch_size)
        Range(0.001, math.inf).check("wait", wait)
        self.scorer = scorer_of(model, options)
        self.source, self.target, self.dead_letters = source, target, dead_letters
        self.batch_size, self.wait, self.decode, self.encode = batch_size, wait, decode, encode
        self.counts = Counts()
        self._records = Records(self.scorer.model, "the record")
        self._stopped = threading.Event()
        self._consumer_config = {
            "auto.offset.reset": "earliest",
            "queued.max.messages.kbytes": 16_384,
            **config,
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
        self._producer_config = {
            "transaction.timeout.ms": 30_000,
            "linger.ms": 5,
            **config,
            "transactional.id": f"{group}-{instance or uuid.uuid4()}",
        }

    def stop(self) -> None:
        """Let `run` return once its batch is committed; from another thread, or a handler of signals."""
        self._stopped.set()

    def run(self, idle: float | None = None) -> Counts:
        """Work until `stop` is called.

        Parameters
        ----------
        idle : float, optional
            Return after so many seconds without a record, counted once partitions are assigned.

        Returns
        -------
        Counts
        """
        self._stopped.clear()
        consumer, producer = Consumer(self._consumer_config), Producer(self._producer_config)
        try:
            _insisted(producer.init_transactions)
            last, failures = math.inf, 0

            def assigned(*_: Any) -> None:
                nonlocal last
                last = time.monotonic()

            consumer.subscribe([self.source], on_assign=assigned)
            while not self._stopped.is_set():
                messages = _read(consumer, self.batch_size, self.wait)
                if messages:
                    last = time.monotonic()
                    error = self._transaction(consumer, producer, messages)
                    failures = failures + 1 if error else 0
                    if error and failures == RETRIES:
                        raise error
                elif idle is not None and time.monotonic() - last > idle:
                    break
        finally:
            consumer.close()  # the partitions go to others at once
        return self.counts

    def _transaction(
        self, consumer: Consumer, producer: Producer, messages: Sequence[Message]
    ) -> KafkaException | None:
        """Score records and commit them with how far was read; or go back, and say why."""
        good, bad = self._scored(messages)
        odd = 0
        producer.begin_transaction()
        try:
            for one in good:
                try:
                    _produce(producer, self.target, one.message, one.value, one.message.headers() or [])
                    odd += one.odd
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE or self.dead_letters is None:
                        raise
                    bad.append(_Refused(one.message, "with what is added it exceeds message.max.bytes."))
            for letter in bad:
                _produce(
                    producer, str(self.dead_letters), letter.message, letter.message.value(), _why(*letter)
                )
            _insisted(
                producer.send_offsets_to_transaction, _after(messages), consumer.consumer_group_metadata()
            )
            _insisted(producer.commit_transaction)
        except KafkaException as error:
            if not error.args[0].txn_requires_abort():
                raise
            # Such as partitions that have gone to another worker meanwhile. Nothing of it was committed, and
            # what is still ours is read again.
            _insisted(producer.abort_transaction)
            _go_back(consumer, messages)
            return error
        done = self.counts
        self.counts = replace(
            done,
            scored=done.scored + len(messages) - len(bad),
            refused=done.refused + len(bad),
            anomalies=done.anomalies + odd,
            transactions=done.transactions + 1,
        )
        return None

    def _scored(self, messages: Sequence[Message]) -> tuple[list[_Scored], list[_Refused]]:
        """What is to be produced for the records, and for those that are refused why."""
        bad: list[_Refused] = []
        read: list[tuple[Message, Record]] = []
        for message in messages:
            try:
                read.append((message, self._decoded(message)))
            except SchemaError as error:
                bad.append(_Refused(message, str(error)))
        table, refused = self._records.sifted([record for _, record in read])
        bad += [_Refused(read[row][0], why) for row, why in refused.items()]
        read = [one for row, one in enumerate(read) if row not in refused]
        scored, refused = self.scorer.sifted(table)
        bad += [_Refused(read[row][0], why) for row, why in refused.items()]
        read = [one for row, one in enumerate(read) if row not in refused]
        good: list[_Scored] = []
        odd = self.scorer.prefix + ODD
        new = rows_of_table(scored.select([*self.scorer.kinds]))
        for (message, record), added in zip(read, new, strict=True):
            try:
                good.append(_Scored(message, self.encode({**record, **added}), bool(added.get(odd))))
            except Exception as error:  # of whatever encodes
                bad.append(_Refused(message, f"it cannot be encoded: {error}."))
        if bad and self.dead_letters is None:
            message, why = bad[0]
            topic, partition, offset = _place(message)
            raise SchemaError(
                f"the record at offset {offset} of partition {partition} of {topic} cannot be scored: {why} "
                "Name a topic for such records: dead_letters=."
            )
        return good, bad

    def _decoded(self, message: Message) -> Record:
        value = message.value()
        if value is None:
            raise SchemaError("it has no value.")
        try:
            record = self.decode(value if isinstance(value, bytes) else value.encode())
        except Exception as error:  # of whatever decodes
            raise SchemaError(f"it cannot be decoded: {error}.") from error
        if not isinstance(record, Mapping):
            raise SchemaError(f"it is no object with columns, but {type(record).__name__}.")
        self.scorer.check_names(record)
        return record


# ---- calls of librdkafka -----------------------------------------------------------------------------------


def _insisted(call: Callable[..., Any], *arguments: Any) -> None:
    """Call, and again where librdkafka says that it may help."""
    for attempt in range(RETRIES):
        try:
            call(*arguments, TIMEOUT)
            return
        except KafkaException as error:
            if not error.args[0].retriable() or attempt == RETRIES - 1:
                raise


def _read(consumer: Consumer, most: int, wait: float) -> list[Message]:
    messages = consumer.consume(most, wait)
    for message in messages:
        error = message.error()
        # A batch took too long, and its transaction was aborted: the next read joins the group again.
        if error and error.code() != KafkaError._MAX_POLL_EXCEEDED:
            raise KafkaException(error)
    return [message for message in messages if not message.error()]


def _produce(producer: Producer, topic: str, message: Message, value: Any, headers: Any) -> None:
    kind, when = message.timestamp()
    while True:
        try:
            producer.produce(topic, value, message.key(), timestamp=when if kind else 0, headers=headers)
            return
        except BufferError:  # the producer's queue is full: wait until some of it is sent
            producer.poll(0.1)


def _place(message: Message) -> tuple[str, int, int]:
    """Topic, partition and offset."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None  # what was read has all three
    assert partition is not None
    assert offset is not None
    return topic, partition, offset


def _after(messages: Sequence[Message]) -> list[TopicPartition]:
    """Where to read on after records, in each partition."""
    last = {(topic, partition): offset for topic, partition, offset in map(_place, messages)}
    return [TopicPartition(topic, partition, offset + 1) for (topic, partition), offset in last.items()]


def _go_back(consumer: Consumer, messages: Sequence[Message]) -> None:
    """Read records again, of the partitions that are still ours."""
    places = map(_place, reversed(messages))
    first = {(topic, partition): offset for topic, partition, offset in places}
    for held in consumer.assignment():
        if (held.topic, held.partition) in first:
            consumer.seek(TopicPartition(held.topic, held.partition, first[held.topic, held.partition]))


def _why(message: Message, error: str) -> list[tuple[str, bytes]]:
    """Headers of a dead letter."""
    topic, partition, offset = _place(message)
    said = {
        "lookalike.error": error,
        "lookalike.topic": topic,
        "lookalike.partition": partition,
        "lookalike.offset": offset,
    }
    return [*(message.headers() or []), *((name, str(value).encode()) for name, value in said.items())]
