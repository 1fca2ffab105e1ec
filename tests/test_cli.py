"""The command line: tables in and out of files, conditions, exit codes, errors, and interrupts."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lookalike as la
from lookalike import runtime
from lookalike.cli import main
from lookalike.files import NULLS, Reader, inferred, open_writer


@pytest.fixture(scope="module")
def model(model_of_people):
    return model_of_people("Mixture")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, people, people_file):
    """Files of a model and of rows like those it was fitted to."""
    folder = tmp_path_factory.mktemp("cli")
    model.save(folder / "people.lookalike")
    shutil.copy(people_file, folder / "score.onnx")
    rows = people.head(60).assign(note=["with, comma", 'with "quotes"', "007"] * 20)
    rows.to_csv(folder / "rows.csv", index=False)
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), folder / "rows.parquet")
    return folder


def lines_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_rows_are_scored_as_by_the_model_and_pass_as_they_were(folder, model, people, tmp_path):
    out = tmp_path / "scored.csv"
    assert main(["score", str(folder / "score.onnx"), str(folder / "rows.csv"), "-o", str(out)]) == 0
    before, after = lines_of(folder / "rows.csv"), lines_of(out)
    assert after[0] == [*before[0], "anomaly_score", "p_value", "is_anomaly"]
    assert [row[:-3] for row in after] == before  # to the letter
    exported = runtime.load(folder / "score.onnx")
    rows = people.head(60)
    found = np.array([[float(row[-3]), float(row[-2]), row[-1] == "true"] for row in after[1:]])
    np.testing.assert_allclose(found[:, 0], exported.anomaly_score(rows), rtol=0, atol=0)
    np.testing.assert_array_equal(found[:, 1], exported.p_values(rows))
    np.testing.assert_array_equal(found[:, 2], exported.predict(rows) == -1)


def test_files_folders_globs_and_pipes_give_the_same(folder, tmp_path, capfd, monkeypatch):
    shard = tmp_path / "day=1"
    shard.mkdir()
    table = pq.read_table(folder / "rows.parquet")
    pq.write_table(table.slice(0, 25), shard / "a.parquet")
    pq.write_table(table.slice(25), shard / "b.parquet")
    (shard / "_SUCCESS.csv").write_text("of an engine")
    scored = {}
    for name, places in {
        "file": [str(folder / "rows.parquet")],
        "folder": [str(tmp_path)],
        "glob": [str(tmp_path / "**" / "*.parquet")],
    }.items():
        out = tmp_path / f"{name}.arrow"
        assert main(["-q", "score", str(folder / "score.onnx"), *places, "-o", str(out)]) == 0
        with pa.ipc.open_stream(out) as stream:
            scored[name] = stream.read_all()
        out.unlink()
    assert scored["file"].drop_columns(["anomaly_score", "p_value", "is_anomaly"]).equals(table)
    assert scored["folder"].equals(scored["file"])
    assert scored["glob"].equals(scored["file"])
    assert [str(t) for t in scored["file"].schema.types[-3:]] == ["double", "double", "bool"]
    with open(folder / "rows.csv") as file:
        monkeypatch.setattr("sys.stdin", file)
        capfd.readouterr()
        assert main(["-q", "score", str(folder / "score.onnx"), "-", "--columns", "note"]) == 0
    piped = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert [row["note"] for row in piped[:3]] == ["with, comma", 'with "quotes"', "007"]
    assert [float(row["p_value"]) for row in piped] == scored["file"]["p_value"].to_pylist()


def test_the_gate_fails_after_the_file_is_written(folder, tmp_path, capsys):
    out = tmp_path / "odd.parquet"
    line = ["score", str(folder / "score.onnx"), str(folder / "rows.csv"), "-o", str(out), "--anomalies"]
    assert main([*line, "--fail-above", "0.5", "--false-alarm-rate", "0.2"]) == 0
    odd = pq.read_table(out)
    assert 0 < len(odd) < 60
    assert all(odd["is_anomaly"].to_pylist())
    share = len(odd) / 60
    assert main([*line, "--fail-above", f"{share / 2}", "--false-alarm-rate", "0.2"]) == 3
    assert pq.read_table(out).equals(odd)
    said = capsys.readouterr().err
    assert f"{len(odd)} of 60 rows are anomalies" in said
    assert f"lookalike: {share:.4f} of the rows are anomalies, more than {share / 2}" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.replace("income", "incme", 1), "'income'"),
        (
            lambda t: t + "x" + t.splitlines()[1][t.splitlines()[1].index(",") :] + "\n",
            "column 'income' holds 'x",
        ),
        (lambda t: t + "1,2\n", "cannot be read"),
    ],
)
def test_rows_that_do_not_fit_are_named_and_nothing_is_written(folder, tmp_path, capsys, change, words):
    file, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    file.write_text(change((folder / "rows.csv").read_text()))
    out.write_text("old")
    code = main(["score", str(folder / "score.onnx"), str(file), "-o", str(out)])
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert (code, out.read_text()) == (1, "old")
    assert len(said.splitlines()) == 1
    assert str(file) in said
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "rows.csv"]


def test_errors_say_what_to_do_in_one_line(folder, tmp_path, capsys):
    score = str(folder / "score.onnx")
    for line, code, words in [
        (["score", "nix.onnx", "x.csv"], 1, "nix.onnx"),
        (["score", score, "nix.csv"], 1, "nix.csv is no file"),
        (["score", score], 2, "TABLE"),
        (["score", score, str(folder / "rows.csv"), "--columns", "nite"], 1, "Did you mean 'note'?"),
        (["score", score, score], 1, "say it with --format"),
        (["generate", score, "-n", "3"], 1, "was exported to"),
        (
            ["generate", str(folder / "people.lookalike"), "-n", "3", "--given", "cty=Oslo"],
            1,
            "Did you mean 'city'?",
        ),
        (
            ["generate", str(folder / "people.lookalike"), "-n", "3", "--given", "age=young"],
            1,
            "a whole number was",
        ),
        (
            ["fit", str(folder / "rows.csv"), "-o", str(tmp_path / "m"), "--set", "wdth=3"],
            1,
            "no parameter 'wdth'",
        ),
        (
            ["fit", str(folder / "rows.csv"), "-o", str(tmp_path / "m"), "--schema", "city=town"],
            1,
            "'town' is none",
        ),
        (
            ["fit", str(folder / "rows.csv"), "-o", str(tmp_path / "m"), "--family", "vee"],
            2,
            "'vee' is none of",
        ),
    ]:
        assert main(line) == code
        said = capsys.readouterr().err
        assert words in said
        assert len(said.splitlines()) == 1
    with pytest.raises(la.ArtifactError):
        main(["--debug", "generate", score, "-n", "3"])
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_leaves_the_old_file(folder, tmp_path):
    out = tmp_path / "scored.csv"
    out.write_text("old")
    command = [sys.executable, "-m", "lookalike.cli", "score", str(folder / "score.onnx"), "-"]
    with subprocess.Popen(
        [*command, "-o", str(out)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        running.stdin.write((folder / "rows.csv").read_text())
        running.stdin.flush()
        until = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.05)  # until the temporary file is there
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=60)[1]
    assert (running.returncode, said) == (130, "lookalike: interrupted; files are as they were.\n")
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_an_exported_model_runs_without_torch(folder):
    code = (
        "import sys; from lookalike.cli import main; "
        f"assert main(['score', {str(folder / 'score.onnx')!r}, {str(folder / 'rows.csv')!r}]) == 0; "
        "assert not {'torch', 'sklearn'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 61


def test_what_is_asked_for_is_generated(folder, model, tmp_path):
    out = tmp_path / "new.parquet"
    conditions = [
        "city=Oslo|Rome",
        "age=30..40",
        "children=",
        "debt=*",
        "member=true",
        "since=2021-01-01..2022-01-01",
    ]
    line = [
        "generate",
        str(folder / "people.lookalike"),
        "-n",
        "40",
        "--seed",
        "1",
        "--chunk",
        "15",
        "-o",
        str(out),
    ]
    assert main([*line, *(part for one in conditions for part in ("--given", one))]) == 0
    made = pq.read_table(out).to_pandas()
    assert len(made) == 40
    assert set(made["city"]) <= {"Oslo", "Rome"}
    assert made["age"].between(30, 40).all()
    assert made["children"].isna().all()
    assert made["member"].all()
    assert made["since"].dt.year.eq(2021).all()
    assert main(line) == 0
    plain = model.generate(40, random_state=1)
    assert pq.read_table(out)["income"].to_pylist() == plain["income"].tolist()


def test_holes_are_filled_and_all_else_stays(folder, tmp_path):
    lines = lines_of(folder / "rows.csv")
    city, age = lines[0].index("city"), lines[0].index("age")
    for row in lines[1:20]:
        row[city], row[age] = "", "NA"
    with open(tmp_path / "holey.csv", "w", newline="") as file:
        csv.writer(file).writerows(lines)
    out = tmp_path / "whole.csv"
    line = [
        "impute",
        str(folder / "people.lookalike"),
        str(tmp_path / "holey.csv"),
        "-o",
        str(out),
        "--seed",
        "0",
    ]
    assert main([*line, "--draws", "5"]) == 0
    whole = lines_of(out)
    assert {row[city] for row in whole[1:20]} <= {"Bern", "Köln", "Oslo", "Rome"}
    assert all(17 <= int(row[age]) <= 90 for row in whole[1:20])
    for before, after in zip(lines, whole, strict=True):
        assert all(b in (a, *NULLS) for b, a in zip(before, after, strict=True))


def test_reasons_and_pages(folder, tmp_path, capsys):
    rows = pd.read_csv(folder / "rows.csv")
    rows.loc[7, "income"] = 3e6
    rows.to_csv(tmp_path / "odd.csv", index=False)
    out = tmp_path / "why.csv"
    model = str(folder / "score.onnx")
    assert main(["explain", model, str(tmp_path / "odd.csv"), "--columns", "note", "-o", str(out)]) == 0
    why = pd.read_csv(out).set_index("row")
    assert why.loc[7, "reason_1"] == "income"
    assert why.loc[7, "reason_1_share"] > 0.3 * why.loc[7, "anomaly_score"]
    page, numbers = tmp_path / "scores.html", tmp_path / "scores.json"
    line = ["report", str(tmp_path / "odd.csv"), "--model", model, "-o", str(page), "--json", str(numbers)]
    assert main(line) == 0
    assert "<html" in page.read_text()
    assert json.loads(numbers.read_text())["rows"] == 60
    assert main(["report", str(tmp_path / "odd.csv")]) == 2
    assert "not both" in capsys.readouterr().err


def test_from_a_csv_to_an_exported_model(folder, tmp_path, capsys):
    saved, exported = str(tmp_path / "m.lookalike"), str(tmp_path / "m.onnx")
    rows = str(folder / "rows.csv")
    fit = [
        "fit",
        rows,
        "-o",
        saved,
        "--family",
        "mixture",
        "--set",
        "max_steps=20",
        "--schema",
        "note=ignored",
    ]
    assert main(fit) == 0
    assert main(["export", saved, "-o", exported]) == 0
    assert main(["verify", exported]) == 0
    assert main(["info", exported, "--json"]) == 0
    said = capsys.readouterr()
    about = json.loads(said.out[said.out.index("{") :])
    kinds = {column["name"]: column["kind"] for column in about["schema"]["columns"]}
    assert kinds["income"] == "number"
    assert kinds["since"] == "datetime"
    assert kinds["member"] == "boolean"
    assert kinds["note"] == "ignored"
    assert main(["info", saved]) == 0
    assert "Mixture" in capsys.readouterr().out


def test_rows_are_added_where_they_help(tmp_path, capsys):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=60), "kind": rng.choice(["a", "b"], 60)})
    frame.to_csv(tmp_path / "train.csv", index=False)
    out = tmp_path / "more.csv"
    line = ["augment", str(tmp_path / "train.csv"), "--target", "kind", "-o", str(out), "--confidence", "1"]
    assert main(line) == 0
    assert "no augmentation" in capsys.readouterr().err
    assert lines_of(out)[0] == ["x", "kind"]
    assert len(lines_of(out)) == 61


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\ufeff"), max_size=8)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=20))
def test_text_passes_through_files_as_it_is(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("text")
    with open(folder / "in.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("a", "b"), *rows])
    with open_writer(str(folder / "out.csv")) as writer:
        for part in Reader([str(folder / "in.csv")]):
            writer.write(part.table)
    assert lines_of(folder / "out.csv") == lines_of(folder / "in.csv")


def test_columns_of_text_are_what_all_their_values_are():
    table = pa.table(
        {
            "whole": ["1", " 2", None, "NA"],
            "number": ["1", "2.5", "nan", "-1e3"],
            "code": ["01", "2", "3", "4"],
            "truth": ["True", "false", "", "TRUE"],
            "time": ["2026-01-31", "2026-01-31 12:00:00", None, "2026-02-01T00:00:00.5"],
            "text": ["1", "x", "null", "2"],
            "nothing": pa.array([None] * 4, pa.string()),
        }
    )
    found = inferred(table)
    kinds = [str(kind) for kind in found.schema.types]
    assert kinds == ["int64", "double", "string", "bool", "timestamp[us]", "string", "string"]
    assert found["whole"].to_pylist() == [1, 2, None, None]
    assert found["text"].to_pylist() == ["1", "x", None, "2"]
