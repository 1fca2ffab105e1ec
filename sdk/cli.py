"""The command `lookalike`: fit, score, explain, generate, impute, augment, report, export, verify, info and
serve.

Tables come from CSV, Parquet and Arrow files, folders, globs and stdin, images from folders of picture files,
and go on in constant memory where the work allows it. What was asked goes to stdout or a file, all else to
stderr.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import typer

import lookalike as la
from lookalike._version import __version__
from lookalike.arguments import (
    KINDS,
    conditions_of,
    files_by_name,
    kinds_of,
    names_in,
    settings_of,
    size_of,
    template_of,
)
from lookalike.columns import Ignored
from lookalike.errors import LookalikeError, did_you_mean, require
from lookalike.explanation import shown
from lookalike.files import STREAM, Reader, Stored, at, known, open_writer
from lookalike.folders import fill_pictures, folder_named
from lookalike.integrations.scorer import ODD, SCORE, P, Scorer
from lookalike.parameters import Range
from lookalike.passing import (
    TableFiles,
    alike,
    arrow_of,
    beside,
    joined,
    modelled,
    names_of,
    source,
    table_of,
    typed_for,
    writer_of,
)
from lookalike.streaming import n_rows

FAMILIES = ("detector", "synthesizer", "mixture", "vae", "gan", "diffusion", "hybrid")
_CLASSES = {"vae": "VAE", "gan": "GAN"}
FAILED, ABOVE, INTERRUPTED = 1, 3, 130  # exit codes, beside 0 and 2, of wrong usage

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Learn what tables look like; score what does not, generate more that does.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 more anomalies than --fail-above, "
    "130 interrupted.",
)

Tables = Annotated[list[str], typer.Argument(help="Files, folders or globs; - is stdin.", metavar="TABLE...")]
Fitted = Annotated[str, typer.Argument(help="A .lookalike or .onnx file.", metavar="MODEL")]
Out = Annotated[str, typer.Option("-o", "--out", help="A file; by default stdout, as CSV.")]
Format = Annotated[
    str | None,
    typer.Option("--format", help="csv, tsv, parquet or arrow, of tables read whose names do not tell."),
]
OutFormat = Annotated[
    str | None, typer.Option("--out-format", help="csv, tsv, parquet or arrow, if the name does not tell.")
]
Size = Annotated[
    str | None,
    typer.Option(help="HEIGHTxWIDTH to which the pictures of a folder are resized; else all are alike."),
]
Mode = Annotated[str | None, typer.Option(help="L (grey), RGB or RGBA: what pictures are converted to.")]
Templates = Annotated[
    str | None,
    typer.Option(
        help="What pictures of a folder should look like: a folder of the same names, or one file for all."
    ),
]
Seed = Annotated[int | None, typer.Option(help="Equal seeds give equal results.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option("--schema", help="COLUMN=KIND, of " + ", ".join(KINDS) + "; as often as needed."),
]
Threads = Annotated[int | None, typer.Option(help="Threads; by default all for .onnx, one otherwise.")]
Rate = Annotated[
    float | None,
    typer.Option("--false-alarm-rate", help="Call at most this share of normal rows anomalies."),
]


class _Options:
    """What stands before the command."""

    debug = False
    quiet = False


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option(help="Show where an error came from.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no summary.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    _Options.debug, _Options.quiet = debug, quiet
    if version:
        typer.echo(__version__)
        raise typer.Exit


# ---- commands ----------------------------------------------------------------------------------------------


@app.command(
    epilog="Examples: lookalike fit orders.csv -o orders.lookalike --schema zip=categorical; "
    "lookalike fit photos/ -o photos.lookalike --family diffusion --size 32x32"
)
def fit(
    tables: Tables,
    out: Annotated[str, typer.Option("-o", "--out", help="The .lookalike file to write.")],
    family: Annotated[str, typer.Option(help=", ".join(FAMILIES) + ".")] = "detector",
    schema: Kinds = None,
    parameters: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE, a parameter of the family.")
    ] = None,
    seed: Seed = 0,
    format: Format = None,
    size: Size = None,
    mode: Mode = None,
    templates: Templates = None,
    shift: Annotated[
        int | None, typer.Option(help="Pixels by which an edge may be off its template; by default 1.")
    ] = None,
    threads: Threads = None,
) -> None:
    """Learn what the rows of tables, or the pictures of a folder, look like.

    Take the detector to score, the synthesizer to generate; the other families do both, and diffusion is the
    one for pictures, whose labels are the names of sub-folders. Parquet and Arrow files may hold more rows
    than memory, but for the synthesizer.
    """
    if family not in FAMILIES:
        raise typer.BadParameter(f"{family!r} is none of {', '.join(FAMILIES)}.", param_hint="--family")
    _set_threads(threads)
    compared = template_of(templates, shift)
    rows = source(tables, format, size_of(size), mode, templates)
    table = rows.to_learn(in_memory=family == "synthesizer")
    kind = getattr(la, _CLASSES.get(family, family.title()))
    kinds = compared | (kinds_of(schema, names_of(table)) or {})
    settings = {"random_state": seed, "schema": kinds or None, **settings_of(parameters)}
    allowed = kind().get_params()
    for name in settings:
        if name not in allowed:
            raise ValueError(f"{kind.__name__} has no parameter {name!r}.{did_you_mean(name, allowed)}")
    if "verbose" in allowed and "verbose" not in settings:
        settings["verbose"] = _watched()
    model = kind(**settings).fit(table)
    digest = model.save(out)
    n = table.count_rows() if isinstance(table, Stored) else n_rows(table)
    _say(f"{n:,} rows learned by {model}")
    _say(f"{out} written, SHA-256 {digest}")


@app.command(
    epilog="Examples: lookalike score orders.onnx 'orders/*.parquet' -o scored.parquet; "
    "cat today.csv | lookalike score orders.onnx - --fail-above 0.02 > scored.csv"
)
def score(
    model: Fitted,
    tables: Tables,
    out: Out = STREAM,
    false_alarm_rate: Rate = None,
    anomalies: Annotated[bool, typer.Option("--anomalies", help="Write the anomalies alone.")] = False,
    columns: Annotated[
        str | None, typer.Option(help="Columns to write beside the scores, with commas between.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Stands before the names of new columns.")] = "",
    fail_above: Annotated[
        float | None, typer.Option(help="Exit with 3 where the share of anomalies is above this.")
    ] = None,
    format: Format = None,
    size: Size = None,
    mode: Mode = None,
    templates: Templates = None,
    out_format: OutFormat = None,
    threads: Threads = None,
) -> None:
    """Add to each row anomaly_score (higher is odder), p_value and is_anomaly.

    Rows pass in constant memory and keep their columns as they are. Pictures of a folder are rows of two:
    file, and label where they lie in sub-folders.
    """
    if fail_above is not None:
        Range(0, 1).check("--fail-above", fail_above)
    scorer = Scorer(_opened(model, threads, false_alarm_rate), prefix=prefix)
    rows_in = source(tables, format, size_of(size), mode, templates)
    n, odd, kept = 0, 0, names_in(columns)
    with open_writer(out, out_format) as writer, _bar(rows_in.n_rows, "row") as bar:
        for part, rows in rows_in.passing(scorer.model):
            with at(part):
                new = scorer.added(rows)
            found = new[prefix + ODD]
            table = beside(part, kept, new)
            writer.write(table.filter(arrow_of(found)) if anomalies else table)
            odd, n = odd + int(found.sum()), n + len(found)
            bar.update(len(found))
    share = odd / n if n else 0.0
    _say(f"{odd:,} of {n:,} rows are anomalies ({share:.2%})")
    if fail_above is not None and share > fail_above:
        _print(f"lookalike: {share:.4f} of the rows are anomalies, more than {fail_above}.")
        raise typer.Exit(ABOVE)


@app.command(epilog="Example: lookalike explain orders.onnx today.csv --top 2")
def explain(
    model: Fitted,
    tables: Tables,
    out: Out = STREAM,
    top: Annotated[int, typer.Option(help="Columns named for each row.")] = 3,
    every: Annotated[
        bool, typer.Option("--every", help="Explain all rows, not the anomalies alone.")
    ] = False,
    false_alarm_rate: Rate = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns to write beside the reasons, with commas between.")
    ] = None,
    format: Format = None,
    out_format: OutFormat = None,
    threads: Threads = None,
) -> None:
    """Say of each anomaly which columns make it odd, and what was expected there.

    Adds row (its number in the file), anomaly_score, p_value, and for each reason the column, its share of
    the score and the value expected.
    """
    pa = require("pyarrow", "cli", "the command line")
    Range(1, np.inf, whole=True).check("--top", top)
    scorer = _opened(model, threads, false_alarm_rate)
    rows_in, kept = TableFiles(Reader(tables, format)), names_in(columns)
    with open_writer(out, out_format) as writer, _bar(rows_in.n_rows, "row") as bar:
        for part, rows in rows_in.passing(scorer):
            with at(part):
                scores = scorer.score_samples(rows) if rows.num_rows else np.zeros(0)
                chosen = np.arange(len(scores)) if every else np.flatnonzero(scores < scorer.offset_)
                reasons = scorer.explain(rows.take(chosen)).top(top) if len(chosen) else []
            new: dict[str, Any] = {
                "row": part.first + chosen,
                SCORE: -scores[chosen],
                P: scorer.calibration_.p_values(scores[chosen]),
            }
            for k in range(min(top, len(modelled(scorer)))):
                name = f"reason_{k + 1}"
                new[name] = pa.array([row[k][0] for row in reasons], pa.string())
                new[f"{name}_share"] = pa.array([row[k][1] for row in reasons], pa.float64())
                new[f"{name}_expected"] = pa.array([shown(row[k][3]) for row in reasons], pa.string())
            writer.write(beside(replace(part, table=part.table.take(chosen)), kept, new))
            bar.update(len(scores))


@app.command(
    epilog="Example: lookalike generate orders.lookalike -n 1000000 --given city=Oslo --given age=18..30 "
    "-o new.parquet"
)
def generate(
    model: Fitted,
    n: Annotated[int, typer.Option("-n", "--rows", help="How many rows.", min=1)],
    out: Out = STREAM,
    given: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN=VALUE, =A|B (one of), =LOW..HIGH, =* (present), = (missing), =balanced."),
    ] = None,
    chunk: Annotated[int, typer.Option(help="Rows drawn together.", min=1)] = 65_536,
    seed: Seed = None,
    out_format: OutFormat = None,
    threads: Threads = None,
) -> None:
    """Draw new rows, in constant memory; images into a folder, with their labels as sub-folders."""
    generator = _opened(model, threads)
    conditions = conditions_of(given or [], modelled(generator))
    batches = generator.generate_batches(n, chunk, given=conditions, random_state=seed)
    with writer_of(generator, out, out_format, n) as write, _bar(n, "row") as bar:
        for batch in batches:
            bar.update(write(batch))


@app.command(
    epilog="Examples: lookalike impute orders.lookalike holey.csv -o whole.csv; "
    "lookalike impute photos.lookalike photos/ --mask hole.png -o whole/"
)
def impute(
    model: Fitted,
    tables: Tables,
    out: Out = STREAM,
    draws: Annotated[
        int, typer.Option(help="1 draws each value; more write their mean or most frequent level.", min=1)
    ] = 1,
    seed: Seed = None,
    mask: Annotated[
        str | None, typer.Option(help="A picture, white where those of a folder are to be filled.")
    ] = None,
    format: Format = None,
    size: Size = None,
    mode: Mode = None,
    out_format: OutFormat = None,
    threads: Threads = None,
) -> None:
    """Fill missing cells by draws given the rest of the row; all else stays as it is.

    Pictures of a folder are filled where a mask is white, and written under their names to another folder.
    """
    pc = require("pyarrow.compute", "cli", "the command line")
    filler, seeds = _opened(model, threads), np.random.default_rng(seed)
    if mask is not None:
        rows_in = source(tables, format, size_of(size), mode)
        with _bar(rows_in.n_rows, "row") as bar:
            for n in fill_pictures(rows_in.passing(filler), filler, mask, folder_named(out), draws, seeds):
                bar.update(n)
        return
    rows_in, filled = TableFiles(Reader(tables, format)), 0
    with open_writer(out, out_format) as writer, _bar(rows_in.n_rows, "row") as bar:
        for part, rows in rows_in.passing(filler):
            table = part.table
            if rows.num_rows:
                own = int(seeds.integers(2**63))
                with at(part):
                    whole = filler.impute(rows, draws, random_state=own, combine=draws > 1)
                for column in modelled(filler):
                    name = str(column.name)
                    hole, i = pc.is_null(rows[name], nan_is_null=True), table.column_names.index(name)
                    count = pc.sum(hole).as_py() or 0
                    if count:
                        new = whole[name].cast(table.schema.field(i).type)
                        table = table.set_column(i, name, pc.if_else(hole, new, table.column(i)))
                        filled += count
            writer.write(table)
            bar.update(rows.num_rows)
    _say(f"{filled:,} cells filled")


@app.command(epilog="Example: lookalike augment train.csv --target churned -o more.csv")
def augment(
    tables: Tables,
    target: Annotated[str, typer.Option(help="The column to predict.")],
    out: Out = STREAM,
    scoring: Annotated[str | None, typer.Option(help="As scikit-learn names it.")] = None,
    confidence: Annotated[float, typer.Option(help="Of a gain, from which rows are added.")] = 0.75,
    seed: Seed = 0,
    format: Format = None,
    out_format: OutFormat = None,
    threads: Threads = None,
) -> None:
    """Add rows or weights to a training table where cross-validation finds that boosted trees gain by them.

    Writes the table with what was added below it, and a column sample_weight where rows count differently.
    """
    _set_threads(threads)
    table = table_of(Reader(tables, format))
    known(target, table.column_names, ", ".join(tables))
    more = la.augment(
        table, target, scoring=scoring, confidence=confidence, random_state=seed, verbose=_watched()
    )
    rows = more.X.append_column(target, arrow_of(more.y))
    if more.sample_weight is not None:
        rows = rows.append_column("sample_weight", arrow_of(more.sample_weight))
    with open_writer(out, out_format) as writer:
        writer.write(rows)
    _say(str(more.report))


@app.command(
    epilog="Examples: lookalike report real.csv synthetic.csv --holdout test.csv -o report.html; "
    "lookalike report today.csv --model orders.onnx -o scores.html"
)
def report(
    real: Annotated[str, typer.Argument(help="Rows that a generator learned from, or rows to score.")],
    synthetic: Annotated[str | None, typer.Argument(help="Rows that it drew.")] = None,
    out: Annotated[str, typer.Option("-o", "--out", help="The HTML page to write.")] = "report.html",
    holdout: Annotated[str | None, typer.Option(help="Real rows that it did not learn from.")] = None,
    target: Annotated[str | None, typer.Option(help="A column to predict, to measure usefulness.")] = None,
    model: Annotated[str | None, typer.Option(help="A model that scores: a page of its scores.")] = None,
    figures: Annotated[str | None, typer.Option("--json", help="A file for the numbers.")] = None,
    schema: Kinds = None,
    format: Format = None,
    threads: Threads = None,
) -> None:
    """Write a page on how good synthetic rows are, or on what a model calls odd."""
    if (synthetic is None) == (model is None):
        raise typer.BadParameter("give synthetic rows, or a model that scores (--model), and not both.")
    _set_threads(threads)
    if model is not None:
        scorer = _opened(model, threads)
        part = joined(Reader([real], format))
        found = la.report_scores(scorer, typed_for(scorer, part), path=out)
    else:
        table = table_of(Reader([real], format))
        kinds = kinds_of(schema, table.column_names) or {}
        # What is ignored is not generated either.
        table = table.drop_columns([name for name, kind in kinds.items() if isinstance(kind, Ignored)])
        kinds = {name: kind for name, kind in kinds.items() if not isinstance(kind, Ignored)}
        others = [None if t is None else alike(t, format, table) for t in (synthetic, holdout)]
        found = la.report(table, others[0], others[1], target=target, schema=kinds, path=out)
    if figures is not None:
        _write_text(figures, json.dumps(found.numbers, default=str, indent=1) + "\n")
    typer.echo(found)


@app.command(epilog="Example: lookalike export orders.lookalike -o orders.onnx")
def export(
    model: Annotated[str, typer.Argument(help="A .lookalike file.", metavar="MODEL")],
    out: Annotated[str, typer.Option("-o", "--out", help="The .onnx file to write.")],
    task: Annotated[str, typer.Option(help="score, generate or impute.")] = "score",
    precision: Annotated[str, typer.Option(help="float32, or int8 with --sample.")] = "float32",
    sample: Annotated[str | None, typer.Option(help="Training rows, by which int8 is scaled.")] = None,
    no_explain: Annotated[
        bool, typer.Option("--no-explain", help="Scores without what explains them.")
    ] = False,
    format: Format = None,
) -> None:
    """Write a model as ONNX, which runs without torch; it is compared with the model before."""
    fitted = _opened(model, None)
    options: dict[str, Any] = {"explain": False} if no_explain else {}
    if sample is not None:
        part = joined(Reader([sample], format))
        options["rows"] = typed_for(fitted, part)
    if not hasattr(fitted, "export"):
        raise ValueError(f"{model} is no model that can be exported.")
    digest = fitted.export(out, task=task, precision=precision, **options)
    _say(f"{out} written, SHA-256 {digest}")


@app.command(epilog="Example: lookalike verify orders.onnx --sha256 2c26b46b...")
def verify(
    model: Fitted,
    sha256: Annotated[str | None, typer.Option(help="The digest that the file must have.")] = None,
) -> None:
    """Open a model; if it is ONNX, run the rows that it holds and compare with what they gave when made."""
    opened = _opened(model, None, sha256=sha256)
    if hasattr(opened, "verify"):
        typer.echo(f"{model}: results as when it was exported, to within {opened.verify():.1g}")
    else:
        typer.echo(f"{model}: sound")


@app.command(epilog="Example: lookalike info orders.onnx --json | jq .threshold")
def info(
    model: Fitted,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Tell what a model is, and the columns that it takes."""
    opened = _opened(model, None)
    about: Mapping[str, Any]
    if hasattr(opened, "info"):
        about = opened.info()
    else:
        about = {"estimator": str(opened), "schema": opened.schema_}
        if hasattr(opened, "offset_"):
            about = {**about, "threshold": opened.offset_}
    if as_json:
        plain = {key: value.to_dict() if hasattr(value, "to_dict") else value for key, value in about.items()}
        typer.echo(json.dumps(plain, default=str, indent=1))
    elif hasattr(opened, "info"):
        typer.echo(about)
    else:
        typer.echo("\n".join(f"{key}: {value}" for key, value in about.items()))


@app.command(
    epilog="Examples: lookalike serve orders.onnx --port 8080; lookalike serve today=orders.onnx users.onnx; "
    'curl localhost:8000/models/orders/score -d \'[{"kind": "book", "price": 890}]\''
)
def serve(
    models: Annotated[
        list[str],
        typer.Argument(help="Files of `export`, served under their names, or NAME=FILE.", metavar="MODEL..."),
    ],
    host: Annotated[str, typer.Option(help="0.0.0.0 is reached from other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes one that is free.", min=0, max=65_535)] = 8000,
    max_bytes: Annotated[int, typer.Option(help="Of a request.")] = 16 << 20,
    max_rows: Annotated[int, typer.Option(help="Of a request.")] = 100_000,
    max_running: Annotated[
        int | None, typer.Option(help="Requests computed at a time; by default one a processor.")
    ] = None,
    max_waiting: Annotated[int, typer.Option(help="Requests that wait; more are answered 429.")] = 64,
    timeout: Annotated[float, typer.Option(help="Seconds to an answer; then it is 503.")] = 30.0,
    threads: Annotated[int, typer.Option(help="Threads of a request.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
    false_alarm_rate: Rate = None,
) -> None:
    """Answer scores and reasons over HTTP: JSON, Arrow, or the Open Inference Protocol.

    Metrics for Prometheus are at /metrics. SIGTERM and Ctrl-C stop it once running requests are answered.
    """
    for module in ("uvicorn", "fastapi", "prometheus_client", "pyarrow"):
        require(module, "serve", "lookalike serve")
    from lookalike.integrations import http

    application = http.app(
        files_by_name(models),
        max_bytes=max_bytes,
        max_rows=max_rows,
        max_running=max_running,
        max_waiting=max_waiting,
        timeout=timeout,
        threads=threads,
        device=device,
        false_alarm_rate=false_alarm_rate,
    )
    http.serve(application, host, port, timeout, _say)


# ---- what commands share -----------------------------------------------------------------------------------


def _opened(
    path: str, threads: int | None, false_alarm_rate: float | None = None, sha256: str | None = None
) -> Any:
    """A fitted or exported model, told by what the file begins with."""
    with open(path, "rb") as file:
        exported = file.read(2) != b"PK"
    model: Any
    if exported:
        from lookalike import runtime

        model = runtime.load(path, threads=threads, sha256=sha256)
    else:
        _set_threads(threads)
        model = la.load(path, sha256=sha256)
    if false_alarm_rate is not None:
        model.set_threshold(false_alarm_rate=false_alarm_rate)
    return model


def _set_threads(threads: int | None) -> None:
    require("torch", "train", "a .lookalike file").set_num_threads(threads or 1)


def _watched() -> bool:
    return not _Options.quiet and sys.stderr.isatty()


@contextmanager
def _bar(total: int | None, unit: str) -> Iterator[Any]:
    """Progress with rows a second, where somebody looks."""
    tqdm = require("tqdm", "cli", "the command line").tqdm
    with tqdm(total=total, unit=unit, unit_scale=True, disable=not _watched(), leave=False) as bar:
        yield bar


def _print(words: str) -> None:
    typer.echo(words, err=True)


def _say(words: str) -> None:
    if not _Options.quiet:
        _print(words)


def _write_text(path: str, text: str) -> None:
    from lookalike.archive import atomic_write

    with atomic_write(path) as file:
        file.write(text.encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    _Options.debug = _Options.quiet = False
    with warnings.catch_warnings():
        warnings.simplefilter("default", la.LookalikeWarning)
        warnings.showwarning = lambda message, *_, **__: _print(f"lookalike: {message}")
        try:
            code = app(args=None if arguments is None else list(arguments), standalone_mode=False)
            if code == INTERRUPTED:  # as Typer has it
                _print("lookalike: interrupted; files are as they were.")
        except BrokenPipeError:  # who read our output has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (LookalikeError, ValueError, OSError, ImportError) as error:
            if _Options.debug:
                raise
            _print(f"lookalike: {' '.join(str(error).split())}")
            return FAILED
        except Exception as error:
            # Typer's own, of wrong usage: its exceptions are not public, their method is.
            if _Options.debug or not hasattr(error, "format_message"):
                raise
            _print(f"lookalike: {error.format_message()}")
            return int(getattr(error, "exit_code", 2))
    return int(code or 0)


def run() -> None:
    """Entry point of the command."""
    sys.exit(main())


if __name__ == "__main__":
    run()
