"""A Kafka broker of one node, in memory, with transactions.

librdkafka's mock cluster takes transactions and does nothing about them: offsets sent in one are not kept,
and records of aborted ones are shown to all. This one keeps the promises of KIP-98 that exactly-once rests
on: a transaction's records and offsets count together or not at all, ``read_committed`` shows neither what is
open nor what was aborted, and whoever starts under the same ``transactional.id`` ends what was left open and
fences the other off. A group has one member, the last that joined; nothing is compacted or replicated.

References
----------
Apache Kafka. Protocol guide: messages of the versions in `VERSIONS`, record batches of version 2.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
import socketserver
import struct
import threading
import time
from dataclasses import dataclass, field

UNKNOWN_MEMBER, UNSUPPORTED_VERSION, FENCED = 25, 35, 47  # errors
TRANSACTIONAL, CONTROL = 0x10, 0x20  # of a batch's attributes
HEADER = 61  # bytes of a batch before its records


class Reader:
    """Reads a request."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, kind):
        (value,) = struct.unpack_from(f">{kind}", self.data, self.at)
        self.at += struct.calcsize(f">{kind}")
        return value

    def bytes(self, kind="i"):
        size = self.number(kind)
        if size < 0:
            return None
        self.at += size
        return self.data[self.at - size : self.at]

    def text(self):
        value = self.bytes("h")
        return None if value is None else value.decode()

    def many(self, one):
        return [one() for _ in range(self.number("i"))]


def number(kind, *values):
    return struct.pack(f">{kind}", *values)


def text(value):
    return number("h", -1) if value is None else number("h", len(value.encode())) + value.encode()


def data(value):
    return number("i", len(value)) + value


def many(items):
    items = list(items)
    return number("i", len(items)) + b"".join(items)


@dataclass
class Partition:
    """Batches as they came: where each begins, and its bytes."""

    batches: list = field(default_factory=list)
    end: int = 0
    aborted: list = field(default_factory=list)  # producer, first offset, offset of the marker

    def append(self, batch):
        first, count = self.end, struct.unpack_from(">i", batch, 23)[0] + 1
        self.batches.append((first, first + count, number("q", first) + batch[8:]))
        self.end += count
        return first


@dataclass
class Transactions:
    """Of one producer: what is open."""

    producer: int
    epoch: int = 0
    first: dict = field(default_factory=dict)  # by partition
    offsets: dict = field(default_factory=dict)  # of groups


class Broker(socketserver.ThreadingTCPServer):
    """Listens on the loopback while it is entered; `address` is for ``bootstrap.servers``."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, partitions=4):
        super().__init__(("127.0.0.1", 0), Connection)
        self.address = "{}:{}".format(*self.server_address)
        self.partitions = partitions
        self.topics, self.producers, self.offsets, self.members = {}, {}, {}, {}
        self.changed = threading.Condition()
        self.ids = itertools.count(1)
        self.open = set()  # sockets
        self.hooks = {}  # by number of request: called with what answers it, in its place
        self.refusals = []  # errors for the next offsets that are sent in a transaction

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def topic(self, name):
        if name not in self.topics:
            self.topics[name] = [Partition() for _ in range(self.partitions)]
        return self.topics[name]

    def stable(self, name, partition):
        """The offset from which on a transaction is open."""
        firsts = (t.first.get((name, partition)) for t in self.producers.values())
        return min([first for first in firsts if first is not None], default=self.topic(name)[partition].end)

    def fenced(self, producer, epoch):
        return any(t.producer == producer and t.epoch != epoch for t in self.producers.values())

    def end_transaction(self, transactions, committed):
        """Mark the records of a transaction as committed or aborted; its offsets count or are forgotten."""
        for (name, partition), first in transactions.first.items():
            log = self.topic(name)[partition]
            marker = log.append(control(transactions, committed))
            if not committed:
                log.aborted.append((transactions.producer, first, marker))
        if committed:
            self.offsets.update(transactions.offsets)
        transactions.first, transactions.offsets = {}, {}


def control(transactions, committed):
    """The batch that ends a transaction in a partition."""
    key, value = number("hh", 0, int(committed)), number("hi", 0, 0)
    record = b"\0\0\0" + b"\x08" + key + b"\x0c" + value + b"\0"
    record = bytes([2 * len(record)]) + record
    now = int(time.time() * 1000)
    head = number("qqqhii", now, now, transactions.producer, transactions.epoch, -1, 1)
    body = number("ibIhi", 0, 2, 0, TRANSACTIONAL | CONTROL, 0) + head + record
    return number("qi", 0, len(body)) + body


class Connection(socketserver.BaseRequestHandler):
    """Answers the requests of a client, one after the other."""

    def setup(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.open.add(self.request)

    def finish(self):
        self.server.open.discard(self.request)

    def handle(self):
        with contextlib.suppress(ConnectionError, OSError):
            while head := self.exactly(4):
                reader = Reader(self.exactly(*struct.unpack(">i", head)))
                key, version, correlation = reader.number("h"), reader.number("h"), reader.number("i")
                reader.text()  # the client's name
                answering = functools.partial(self.answer, key, reader, version)
                hook = self.server.hooks.get(key)
                answer = hook(answering) if hook else answering()
                if answer is not None:
                    self.request.sendall(data(number("i", correlation) + answer))

    def answer(self, key, reader, version):
        with self.server.changed:
            answer = ANSWERS[key](self.server, reader, version)
            self.server.changed.notify_all()
        return answer

    def exactly(self, n):
        read = b""
        while len(read) < n:
            more = self.request.recv(n - len(read))
            if not more:
                return b""
            read += more
        return read


# ---- requests: each is given the broker, what it asks, and its version -------------------------------------


def api_versions(broker, r, version):
    error = (
        UNSUPPORTED_VERSION if version else 0
    )  # later versions are written otherwise: ask again by the first
    return number("h", error) + many(number("hhh", key, *limits) for key, limits in VERSIONS.items())


def metadata(broker, r, version):
    count = r.number("i")
    names = list(broker.topics) if count < 0 else [r.text() for _ in range(count)]
    host, port = broker.server_address
    brokers = many([number("i", 1) + text(host) + number("i", port) + text(None)])

    def described(name):
        parts = (number("hii", 0, i, 1) + 2 * many([number("i", 1)]) for i in range(len(broker.topic(name))))
        return number("h", 0) + text(name) + number("b", 0) + many(parts)

    return brokers + text("test") + number("i", 1) + many(map(described, names))


def produce(broker, r, version):
    r.text()
    acks = r.number("h")
    r.number("i")

    def topic():
        name = r.text()

        def partition():
            i, batch = r.number("i"), r.bytes()
            producer, epoch = struct.unpack_from(">qh", batch, 43)
            if broker.fenced(producer, epoch):
                return number("ihqq", i, FENCED, -1, -1)
            first = broker.topic(name)[i].append(batch)
            for transactions in broker.producers.values():
                if transactions.producer == producer:
                    transactions.first.setdefault((name, i), first)
            return number("ihqq", i, 0, first, -1)

        return text(name) + many(r.many(partition))

    answer = many(r.many(topic)) + number("i", 0)
    return answer if acks else None


def fetch(broker, r, version):
    r.number("i")
    wait, _, _, isolation = r.number("i"), r.number("i"), r.number("i"), r.number("b")
    asked = r.many(lambda: (r.text(), r.many(lambda: (r.number("i"), r.number("q"), r.number("i")))))

    def found():
        return any(
            offset < (broker.stable(name, i) if isolation else broker.topic(name)[i].end)
            for name, partitions in asked
            for i, offset, _ in partitions
        )

    broker.changed.wait_for(found, min(wait, 50) / 1000)

    def partition(name, i, offset, most):
        log, stable = broker.topic(name)[i], broker.stable(name, i)
        batches, end = [], stable if isolation else log.end
        for first, _, batch in log.batches[first_after(log.batches, offset) :]:
            if first >= end or (batches and sum(map(len, batches)) + len(batch) > most):
                break
            batches.append(batch)
        aborted = [number("qq", who, first) for who, first, marker in log.aborted if marker >= offset]
        aborted = many(aborted) if isolation else number("i", -1)
        return number("ihqq", i, 0, log.end, stable) + aborted + data(b"".join(batches))

    return number("i", 0) + many(
        text(name) + many(partition(name, *one) for one in partitions) for name, partitions in asked
    )


def first_after(batches, offset):
    """The number of the batch that holds an offset."""
    low, high = 0, len(batches)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if batches[middle][1] <= offset else (low, middle)
    return low


def list_offsets(broker, r, version):
    r.number("i")
    isolation = r.number("b") if version >= 2 else 0

    def topic():
        name = r.text()

        def partition():
            i, when = r.number("i"), r.number("q")
            end = broker.stable(name, i) if isolation else broker.topic(name)[i].end
            return number("ihqq", i, 0, -1, 0 if when == -2 else end)

        return text(name) + many(r.many(partition))

    return (number("i", 0) if version >= 2 else b"") + many(r.many(topic))


def find_coordinator(broker, r, version):
    host, port = broker.server_address
    return number("ih", 0, 0) + text(None) + number("i", 1) + text(host) + number("i", port)


def join_group(broker, r, version):
    group = r.text()
    r.number("i")
    member = r.text() or f"member-{next(broker.ids)}"
    r.text()
    name, metadata = r.many(lambda: (r.text(), r.bytes()))[0]
    _, generation = broker.members.get(group, ("", 0))
    broker.members[group] = member, generation + 1
    return (
        number("hi", 0, generation + 1)
        + text(name)
        + 2 * text(member)  # the leader, and who asked
        + many([text(member) + data(metadata)])
    )


def stranger(broker, group, generation, member):
    return UNKNOWN_MEMBER if broker.members.get(group) != (member, generation) else 0


def sync_group(broker, r, version):
    error = stranger(broker, r.text(), r.number("i"), r.text())
    assigned = dict(r.many(lambda: (r.text(), r.bytes())))
    return number("h", error) + data(next(iter(assigned.values()), b""))


def heartbeat(broker, r, version):
    return number("h", stranger(broker, r.text(), r.number("i"), r.text()))


def leave_group(broker, r, version):
    r.text()
    return number("h", 0)


def offset_fetch(broker, r, version):
    group = r.text()

    def topic():
        name = r.text()
        parts = r.many(lambda: r.number("i"))
        return text(name) + many(
            number("iq", i, broker.offsets.get((group, name, i), -1)) + text("") + number("h", 0)
            for i in parts
        )

    return many(r.many(topic))


def init_producer(broker, r, version):
    name = r.text()
    if name is None:
        return number("ihqh", 0, 0, next(broker.ids), 0)
    if name in broker.producers:
        broker.end_transaction(broker.producers[name], False)
        broker.producers[name].epoch += 1
    else:
        broker.producers[name] = Transactions(next(broker.ids))
    return number("ihqh", 0, 0, broker.producers[name].producer, broker.producers[name].epoch)


def of_producer(broker, r):
    """The transactions that a request is about, and whether it comes from one that was fenced off."""
    transactions = broker.producers[r.text()]
    known = (transactions.producer, transactions.epoch) == (r.number("q"), r.number("h"))
    return transactions, 0 if known else FENCED


def add_partitions(broker, r, version):
    _, error = of_producer(broker, r)
    topics = r.many(lambda: (r.text(), r.many(lambda: r.number("i"))))
    return number("i", 0) + many(
        text(name) + many(number("ih", i, error) for i in partitions) for name, partitions in topics
    )


def add_offsets(broker, r, version):
    return number("ih", 0, of_producer(broker, r)[1])


def offset_commit(broker, r, version):
    name, group = r.text(), r.text()
    transactions = broker.producers[name]
    known = (transactions.producer, transactions.epoch) == (r.number("q"), r.number("h"))
    error = FENCED if not known else broker.refusals.pop() if broker.refusals else 0

    def topic():
        name = r.text()

        def partition():
            i, offset = r.number("i"), r.number("q")
            r.text()
            if not error:
                transactions.offsets[group, name, i] = offset
            return number("ih", i, error)

        return text(name) + many(r.many(partition))

    return number("i", 0) + many(r.many(topic))


def end_transaction(broker, r, version):
    transactions, error = of_producer(broker, r)
    if not error:
        broker.end_transaction(transactions, bool(r.number("b")))
    return number("ih", 0, error)


PRODUCE, END_TRANSACTION, OFFSET_COMMIT = 0, 26, 28
REQUESTS = {
    PRODUCE: (produce, 3, 3),
    1: (fetch, 4, 4),
    2: (list_offsets, 1, 2),
    3: (metadata, 2, 2),
    9: (offset_fetch, 1, 1),
    10: (find_coordinator, 1, 1),
    11: (join_group, 0, 0),
    12: (heartbeat, 0, 0),
    13: (leave_group, 0, 0),
    14: (sync_group, 0, 0),
    18: (api_versions, 0, 0),
    22: (init_producer, 0, 0),
    24: (add_partitions, 0, 0),
    25: (add_offsets, 0, 0),
    END_TRANSACTION: (end_transaction, 0, 0),
    OFFSET_COMMIT: (offset_commit, 0, 0),
}
ANSWERS = {key: answer for key, (answer, *_) in REQUESTS.items()}
VERSIONS = {key: limits for key, (_, *limits) in REQUESTS.items()}
