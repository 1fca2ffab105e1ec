"""A dataset larger than memory is learned as a table is: by all of its rows, in memory that does not grow."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from conftest import TINY, TINY_MIXTURE, people_table
from numpy.testing import assert_array_equal

import lookalike as la
from lookalike import cli, datasets, training
from lookalike.errors import SchemaError, TrainingError
from lookalike.frames import open_frame
from lookalike.schema import Schema, Table

N = 4000


@pytest.fixture(scope="module")
def table():
    return pa.Table.from_pandas(people_table(N, 0), preserve_index=False)


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory):
    """The table in four files, sorted: no file is like the others."""
    where = tmp_path_factory.mktemp("people")
    rows = table.sort_by("income")
    for i in range(4):
        pq.write_table(rows.slice(i * N // 4, N // 4), where / f"{i}.parquet", row_group_size=300)
    return where


@pytest.fixture
def small(monkeypatch):
    """What is larger than memory, made small."""
    monkeypatch.setattr(datasets, "SAMPLE", N // 2)
    monkeypatch.setattr(datasets, "PART", 512)
    monkeypatch.setattr(training, "SHUFFLED", 1000)


def test_of_few_rows_the_fit_is_that_of_the_table(folder):
    dataset = ds.dataset(folder)
    models = [la.Mixture(**TINY_MIXTURE).fit(X) for X in (dataset, dataset.to_table())]
    scores = [model.score_samples(dataset.head(300)) for model in models]
    assert_array_equal(*scores)


def test_the_schema_is_learned_from_all_rows(folder, small):
    dataset = datasets.Dataset(ds.dataset(folder))
    _, sample = dataset.sample(0)
    schema, whole = dataset.schema(sample, None), Schema.fit(ds.dataset(folder).to_table())
    assert schema.to_dict() == whole.to_dict()
    assert schema.to_dict() != Schema.fit(sample).to_dict()


@pytest.mark.parametrize("cut", [50, 200, 340])
def test_what_is_learned_of_parts_is_what_is_learned_of_the_whole(people, cut):
    table = people.assign(
        deep=2**60 + 3 * np.arange(len(people)), code=[f"A-{i:03d}-x" for i in range(len(people))]
    )
    for whole in Schema.fit(table, {"code": la.Identifier(), "deep": la.Number()}).columns:
        parts = table[[whole.name]][:cut], table[[whole.name]][cut:]
        first, second = (type(whole)().fit(open_frame(part).column(0)) for part in parts)
        both = first.joined(second).learned(missing=whole.missing)
        assert both.to_dict() == whole.to_dict()


def test_what_one_row_in_thousands_holds_is_not_lost(small):
    rng = np.random.default_rng(0)
    zero, text = np.zeros(N), np.array(["usual"] * N, dtype=object)
    always, hole, rare = [None] * N, rng.normal(size=N), rng.choice(["a", "b"], N).astype(object)
    odd = int(np.setdiff1d(np.arange(N), datasets._drawn(N, N // 2, 7))[0])  # a row that is not drawn
    zero[odd], text[odd], always[odd], hole[odd], rare[odd] = 3.5, "odd", 1.25, np.nan, "c"
    table = pa.table(
        {"zero": zero, "text": text, "always": pa.array(always), "rare": rare, "x": rng.normal(size=N)}
    )
    table = table.append_column("hole", pa.array(hole, from_pandas=True))
    dataset = datasets.Dataset(ds.dataset(table))
    drawn, sample = dataset.sample(7)
    assert odd not in drawn
    schema = dataset.schema(sample, None)
    kinds = {column.name: column.kind for column in schema.columns}
    assert kinds == {
        "zero": "number",
        "text": "category",
        "always": "constant",
        "rare": "category",
        "x": "number",
        "hole": "number",
    }
    held = {column.name: column for column in schema.columns}
    assert held["text"].levels == ("usual", "odd")
    assert held["text"].counts == (N - 1, 1)
    assert held["rare"].levels[-1] == "c"
    assert held["zero"].high == 3.5
    assert held["hole"].missing == 1 / N
    assert held["always"].levels == (1.25,)
    model = la.Mixture(**TINY_MIXTURE).fit(ds.dataset(table))
    assert np.isfinite(model.score_samples(table.slice(odd, 1))).all()


@pytest.mark.parametrize("kind", [la.Mixture, la.Detector, la.VAE])
def test_a_model_of_a_dataset_finds_what_one_of_the_table_finds(folder, table, small, kind):
    odd = table.slice(0, 200).to_pandas()
    odd["income"], odd["age"] = 150_000.0, 17
    odd = pa.Table.from_pandas(odd, preserve_index=False)
    for X in (ds.dataset(folder), table):
        model = kind(max_steps=150, random_state=0).fit(X)
        assert 0.005 < (model.predict(table) < 0).mean() < 0.12
        assert np.median(model.p_values(odd)) < 0.06
        assert model.n_train_ > 3000


def test_rows_held_out_are_not_trained_on(folder, small, monkeypatch):
    asked = []
    encoded = datasets.Dataset.encoded

    def spied(self, schema, left_out):
        asked.append(left_out)
        return encoded(self, schema, left_out)

    monkeypatch.setattr(datasets.Dataset, "encoded", spied)
    model, dataset = la.Mixture(**TINY_MIXTURE).fit(ds.dataset(folder)), ds.dataset(folder)
    (held,) = asked
    assert len(held) == 2 * N // 20
    assert model.n_train_ == N - len(held)
    assert set(model.calibration_.scores) <= set(model.score_samples(dataset.take(held)))
    whole = model.schema_.encode(dataset.to_table())
    trained = Table.join(list(encoded(datasets.Dataset(dataset), model.schema_, held)))
    assert_array_equal(trained.numbers, np.delete(whole.numbers, held, axis=0))


def test_equal_seeds_give_equal_models_and_a_killed_fit_goes_on(folder, small, tmp_path):
    def fit(**options):
        return la.VAE(**TINY, **options).fit(ds.dataset(folder))

    whole, path = fit(), tmp_path / "fit.ckpt"

    def killed(progress):
        if progress.step >= 20:
            raise MemoryError("killed")

    with pytest.raises(MemoryError, match="killed"):
        fit(checkpoint=path, callbacks=[killed])
    again = fit(checkpoint=path)
    rows = ds.dataset(folder).head(200)
    assert_array_equal(again.score_samples(rows), whole.score_samples(rows))


@pytest.mark.parametrize("end", [None, RuntimeError, KeyboardInterrupt])
def test_the_file_of_encoded_rows_is_gone_however_the_fit_ends(folder, small, tmp_path, monkeypatch, end):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    opened = []

    def look(progress):
        opened.append(_deleted_files(tmp_path))
        if end is not None:
            raise end("stop")

    model = la.VAE(**TINY, callbacks=[look])
    if end is RuntimeError:
        with pytest.raises(RuntimeError, match="stop"):
            model.fit(ds.dataset(folder))
    elif end is KeyboardInterrupt:
        with pytest.warns(la.LookalikeWarning, match="interrupted"):
            model.fit(ds.dataset(folder))
    else:
        model.fit(ds.dataset(folder))
    assert opened[0] > 0
    assert not any(path.is_file() for path in tmp_path.iterdir())
    assert _deleted_files(tmp_path) == 0


def _deleted_files(folder):
    """Open files of a folder that have no name."""
    links = [os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
    return sum(os.readlink(link).startswith(str(folder)) for link in links if os.path.islink(link))


def test_partitions_and_filters_are_read_as_arrow_reads_them(table, tmp_path, small):
    pq.write_to_dataset(table.drop_columns(["size"]), tmp_path, partition_cols=["member"])
    dataset = ds.dataset(tmp_path, partitioning="hive")
    for one in (dataset, dataset.filter(ds.field("age") > 30)):
        read = pa.concat_tables([part for _, part in datasets.Dataset(one).parts()])
        assert read.equals(one.to_table())


def test_what_cannot_be_learned_from_is_refused(folder, small, monkeypatch):
    dataset = ds.dataset(folder)
    with pytest.raises(ValueError, match=r"y goes with a table in memory, got a dataset.*filter"):
        la.VAE(**TINY).fit(dataset, np.ones(N))
    least, second = sorted(dataset.to_table()["income"].to_pylist())[:2]
    for lower, where in ((second, r"rows 0 to 511, counted from there"), (30_000, "of 2,000 rows drawn")):
        with pytest.raises(SchemaError, match=rf"^{where}: column 'income' holds .*lower={lower}"):
            la.VAE(**TINY, schema={"income": la.Number(lower=lower)}).fit(dataset)
    assert least < second

    class Growing:
        schema = dataset.schema
        count_rows = dataset.count_rows

        def to_batches(self, **options):
            yield from dataset.to_batches(**options)
            yield from dataset.head(10).to_batches()

    with pytest.raises(SchemaError, match=r"had 4,000 rows and now has 4,010"):
        la.VAE(**TINY).fit(Growing())


def test_a_full_disk_says_what_to_do(folder, small, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(
        TrainingError, match=r"did not fit into .*No space left.*A row takes \d+ bytes.*TMPDIR"
    ):
        la.VAE(**TINY).fit(ds.dataset(folder))


def test_the_command_line_takes_files_as_a_dataset(folder, table, small, tmp_path, capsys):
    with pa.ipc.new_stream(tmp_path / "people.arrow", table.schema) as writer:
        writer.write_table(table)
    for place in (folder, tmp_path / "people.arrow"):
        out = tmp_path / "people.lookalike"
        options = ["--family", "mixture", "--set", "max_steps=40", "--set", "n_components=12"]
        assert cli.main(["fit", str(place), "-o", str(out), *options]) == 0
        assert "4,000 rows learned by Mixture" in capsys.readouterr().err
        model = la.load(out)
        assert model.n_train_ == N - 2 * round(0.1 * N // 2)  # of a sample, a tenth is held out twice


@pytest.mark.slow
def test_memory_does_not_grow_with_rows(tmp_path):
    """Five times the rows, the same memory: what the process holds for itself, at its most."""
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(40_000, 10))).rename(columns=str)
    for i in range(25):
        pq.write_table(pa.Table.from_pandas(rows), tmp_path / f"{i}.parquet", row_group_size=20_000)
    code = textwrap.dedent(
        """
        import sys, threading, time
        import pyarrow.dataset as ds
        import lookalike as la
        from lookalike import datasets, training
        datasets.SAMPLE, datasets.PART, training.SHUFFLED = 20_000, 16_384, 50_000
        def held():
            (kilobytes,) = [x.split()[1] for x in open("/proc/self/status") if x.startswith("RssAnon")]
            return int(kilobytes) / 1024
        files = [f"{sys.argv[1]}/{i}.parquet" for i in range(int(sys.argv[2]))]
        most = [0.0]
        def look():
            while True:
                most[0] = max(most[0], held())
                time.sleep(0.005)
        la.Mixture(max_steps=20, random_state=0).fit(ds.dataset(files[:1]).head(2000))
        threading.Thread(target=look, daemon=True).start()
        la.Mixture(max_steps=60, random_state=0).fit(ds.dataset(files))
        print(most[0])
        """
    )
    # What allocators keep for later would hide what is held.
    quiet = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    quiet["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    most = []
    for n in (5, 25):
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path, str(n)], capture_output=True, text=True, env=quiet
        )
        assert done.returncode == 0, done.stderr
        most.append(float(done.stdout))
    at_hand = 800_000 * 10 * 8 / 2**20  # what the rows more are in memory
    assert most[1] - most[0] < at_hand / 3, most
