r"""Detection on ADBench's tables: our models beside neighbours, PyOD's and two recent papers', in one run.

    python benchmarks/detection.py                        # ours and mean-5-NN, clean, one seed
    python benchmarks/detection.py --models all --peers python3.11 --seeds 0,1,2,3,4 \
        --settings clean,published,contaminated           # the whole table; many CPU hours
    python benchmarks/detection.py --models VAE --again   # measure it anew

Runs the judge in ../shared/judge, one thread, every model from its defaults and with the seed of the split.
PyOD lives in build/peers, which `--peers` makes from the interpreter it names. Each result is written to
benchmarks/results/detection-<setting>.csv as soon as it is known, and what is there is not measured again, so
that a run may be stopped and started at will. benchmarks/results/detection.md sums up what the files hold.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import peers

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared"
SETTINGS = ("clean", "published", "contaminated")
FIGURES = ("auroc", "ap", "fit_cpu_s", "score_cpu_us_per_row")
FIELDS = ("model", "table", "seed", "n_train", "n_test", "n_columns", *FIGURES, "version", "error")


class Model(NamedTuple):
    """Where a detector is, and what its constructor has to be told."""

    path: str
    package: str  # whose version stands beside its figures
    seeded: bool = True  # it takes random_state
    chatty: bool = False  # it takes verbose


MODELS = {
    "Detector": Model("lookalike:Detector", "lookalike"),
    "Diffusion": Model("lookalike:Diffusion", "lookalike"),
    "VAE": Model("lookalike:VAE", "lookalike"),
    "GAN": Model("lookalike:GAN", "lookalike"),
    "MeanKNN5": Model("baselines:MeanKNN5", "scikit-learn", seeded=False),
    "pyod.KNN": Model("pyod.models.knn:KNN", "pyod", seeded=False),
    "pyod.LOF": Model("pyod.models.lof:LOF", "pyod", seeded=False),
    "pyod.IForest": Model("pyod.models.iforest:IForest", "pyod"),
    "pyod.ECOD": Model("pyod.models.ecod:ECOD", "pyod", seeded=False),
    "pyod.PCA": Model("pyod.models.pca:PCA", "pyod"),
    "pyod.MCD": Model("pyod.models.mcd:MCD", "pyod"),
    "pyod.AutoEncoder": Model("pyod.models.auto_encoder:AutoEncoder", "pyod", chatty=True),
    "pyod.VAE": Model("pyod.models.vae:VAE", "pyod", chatty=True),
    "pyod.DeepSVDD": Model("baselines:DeepSVDD", "pyod"),
    "pyod.LUNAR": Model("pyod.models.lunar:LUNAR", "pyod"),
    "DTE-C": Model("baselines:DTEC", "torch"),
    "TCCM": Model("baselines:TCCM", "torch"),
}
DEFAULT = ("Detector", "Diffusion", "VAE", "GAN", "MeanKNN5")
# Whom the differences are taken to.
REFERENCES = {
    "clean": ("MeanKNN5",),
    "published": ("MeanKNN5",),
    "contaminated": ("MeanKNN5", "pyod.IForest", "pyod.MCD"),
}
QUOTED = ("DTE-NP", "KNN", "DTE-C", "ICL")  # of the paper's tables

Key = tuple[str, str, int]  # model, table, seed
Rows = dict[Key, dict[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(DEFAULT), help=f"all, or some of {','.join(MODELS)}")
    parser.add_argument("--settings", default="clean", help=f"some of {','.join(SETTINGS)}")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--tables", default="", help="all by default")
    parser.add_argument("--raw", action="store_true", help="features as they are, not standardised")
    parser.add_argument("--again", action="store_true", help="measure anew what is there already")
    parser.add_argument("--peers", default="", help="an interpreter to make PyOD's environment from")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--judge", type=Path, default=SHARED / "judge" / "detection.py")
    args = parser.parse_args()
    if not args.judge.exists():
        sys.exit(f"the judge is not at {args.judge}: give its place with --judge.")
    names = list(MODELS) if args.models == "all" else args.models.split(",")
    if unknown := set(names) - set(MODELS):
        sys.exit(f"no such model: {', '.join(sorted(unknown))}. There are {', '.join(MODELS)}.")
    args.out.mkdir(parents=True, exist_ok=True)
    foreign = [name for name in names if MODELS[name].package == "pyod"]
    if foreign and importlib.util.find_spec("pyod") is None:
        if not args.peers:
            sys.exit(
                f"{', '.join(foreign)}: PyOD is not here; --peers python3.11 makes an environment for it."
            )
        passed = [*sys.argv[1:], "--models", ",".join(foreign)]
        subprocess.run([peers.interpreter(args.peers), __file__, *passed], check=True)
        names = [name for name in names if name not in foreign]
    judge = load(args.judge)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    for setting in args.settings.split(","):
        path = args.out / f"detection-{setting}{'-raw' if args.raw else ''}.csv"
        measure(judge, path, setting, names, seeds, args)
    summary = "\n".join(summarise(args.out, args.judge.parent.parent / "anchors"))
    (args.out / "detection.md").write_text(summary + "\n")
    print(f"\n{summary}")


def load(path: Path) -> ModuleType:
    """The judge as a module."""
    spec = importlib.util.spec_from_file_location("judge", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(
    judge: ModuleType, path: Path, setting: str, names: list[str], seeds: list[int], args: argparse.Namespace
) -> None:
    """Append what is missing to a setting's file, one line a model, table and seed."""
    folder = args.judge.parent.parent / "data" / "adbench"
    files = judge.tables(str(folder))
    by_size = sorted(files, key=lambda name: os.path.getsize(files[name]))
    tables = args.tables.split(",") if args.tables else by_size
    if unknown := set(tables) - set(files):
        sys.exit(f"no such table: {', '.join(sorted(unknown))}. There are {', '.join(by_size)}.")
    wanted = [(name, table, seed) for seed in seeds for name in names for table in tables]
    there = {} if args.again else read(path)
    missing = [key for key in wanted if key not in there]
    print(f"== {setting}: {len(missing)} of {len(wanted)} runs; the others are in {path.name}", flush=True)
    warm = set()
    for key in missing:
        if key[0] not in warm:  # the first fit of a process pays for imports
            judged(judge, (key[0], by_size[0], 0), setting, args.raw)
            warm.add(key[0])
        row = judged(judge, key, setting, args.raw)
        fresh = not path.exists()
        with open(path, "a", newline="") as handle:
            writer = csv.DictWriter(handle, FIELDS, restval="")
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        shown = row.get("error") or "  ".join(f"{name} {row[name]}" for name in FIGURES)
        print(f"{key[0]:16s} {key[1]:12s} seed {key[2]}  {shown}", flush=True)
    if missing:
        write(path, read(path))


def judged(judge: ModuleType, key: Key, setting: str, raw: bool) -> dict[str, Any]:
    """The judge's line on one model, table and seed, or what went wrong."""
    name, table, seed = key
    model = MODELS[name]
    arguments = {"random_state": seed} if model.seeded else {}
    arguments |= {"verbose": 0} if model.chatty else {}
    row = {"model": name, "table": table, "seed": seed, "version": version(model.package)}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.csv"
        command = ["judge", "--model", model.path, "--kwargs", json.dumps(arguments), "--setting", setting]
        command += ["--seeds", str(seed), "--tables", table, "--out", str(out)]
        command += ["--raw"] * raw + ["--higher-is-anomalous"] * model.path.startswith("pyod.")
        before, sys.argv = sys.argv, command
        try:
            with redirect_stdout(io.StringIO()):
                judge.main()
        except ImportError:  # of this environment, not of the detector
            raise
        except (Exception, SystemExit) as error:  # a failure is a result too; the next run goes on
            return row | {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        finally:
            sys.argv = before
        with open(out, newline="") as handle:
            (found,) = csv.DictReader(handle)
    return {name: value for name, value in found.items() if name in FIELDS} | row


def version(package: str) -> str:
    """Of the package that a figure is of; of lookalike only where it is installed."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return package


def read(path: Path) -> Rows:
    """What a file holds; of two lines on the same run the later one counts."""
    if not path.exists():
        return {}
    with open(path, newline="") as handle:
        return {(row["model"], row["table"], int(row["seed"])): row for row in csv.DictReader(handle)}


def write(path: Path, rows: Rows) -> None:
    """In order and without repetitions, whole or not at all."""
    order = {name: i for i, name in enumerate(MODELS)}
    whole = path.with_suffix(".new")
    with open(whole, "w", newline="") as handle:
        writer = csv.DictWriter(handle, FIELDS, restval="")
        writer.writeheader()
        for key in sorted(rows, key=lambda k: (order.get(k[0], len(order)), k[0], k[2], k[1])):
            writer.writerow(rows[key])
    whole.replace(path)


PREAMBLE = """# Detection on ADBench's tables

Written by `python benchmarks/detection.py`. One thread. AUROC and AP are means over tables of each table's
mean over seeds; seconds are those of all tables, microseconds those of all their rows, at the seeds' mean.

A difference is to another model on the same tables and seeds, with two intervals of 95 %. The first is of
other tables like these: tables are drawn with replacement, each with the mean of its seeds, since a claim is
about tables and they vary most; drawing seeds as well would count their noise twice. The second, in brackets,
is of other splits of these same tables: tables stay, and seeds are drawn within each. It takes two seeds."""


def summarise(folder: Path, anchors: Path) -> Iterator[str]:
    """Means a setting, with intervals of the differences, as Markdown."""
    yield PREAMBLE
    for path in sorted(folder.glob("detection-*.csv"), key=order_of_files):
        setting, raw = path.stem.removeprefix("detection-").removesuffix("-raw"), path.stem.endswith("-raw")
        yield from section(setting, raw, read(path))
        if setting == "published" and not raw:
            yield from quoted(anchors)


def order_of_files(path: Path) -> tuple[bool, int]:
    setting = path.stem.removeprefix("detection-").removesuffix("-raw")
    return path.stem.endswith("-raw"), SETTINGS.index(setting)


TITLES = {
    "clean": "half of the normal rows train, all others are scored",
    "published": "DTE's protocol, which puts copies of training rows into the test; to compare only",
    "contaminated": "fitted on all rows, unlabelled, which are then scored",
}


def section(setting: str, raw: bool, rows: Rows) -> Iterator[str]:
    """One setting's table, best AUROC first, and what failed."""
    known = {key: row for key, row in rows.items() if not row["error"]}
    all_tables = {table for _, table, _ in rows}
    names = {name for name, _, _ in known}
    figures = {name: {figure: by_table(known, name, figure) for figure in FIGURES} for name in names}
    references = [name for name in REFERENCES[setting] if name in names]
    yield f"\n## {setting}{', raw features' if raw else ''}: {TITLES[setting]}\n"
    heads = ["", "tables", "seeds", "AUROC", "AP", "fit, CPU s", "score, us a row"]
    heads += [f"{figure} beyond {name}" for name in references for figure in ("AUROC", "AP")]
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for name in sorted(names, key=lambda n: -mean(figures[n]["auroc"])):
        auroc, ap, fit, score = figures[name].values()
        seeds = sorted({sum(key[:2] == (name, table) for key in known) for table in auroc})
        n = {table: float(row["n_test"]) for (_, table, _), row in known.items()}
        cost = sum(score[table] * n[table] for table in score) / sum(n[table] for table in score)
        cells = [
            name,
            f"{len(auroc)}",
            " to ".join(map(str, sorted({seeds[0], seeds[-1]}))),
            f"{mean(auroc):.2f}",
            f"{mean(ap):.2f}",
        ]
        cells += [f"{sum(fit.values()):.1f}", f"{cost:.1f}"]
        for other in references:
            cells += [
                "" if other == name else difference(known, name, other, figure) for figure in FIGURES[:2]
            ]
        yield "| " + " | ".join(cells) + " |"
    yield f"\nMeasured: {', '.join(sorted({row['version'] for row in known.values()}))}."
    if partial := sorted(name for name in names if set(figures[name]["auroc"]) != all_tables):
        yield f"\nNot on all {len(all_tables)} tables, so that means do not compare: {', '.join(partial)}."
    failed: dict[tuple[str, str, str], list[int]] = {}
    for (name, table, seed), row in sorted(rows.items()):
        if row["error"]:
            failed.setdefault((name, table, row["error"]), []).append(seed)
    for (name, table, error), where in failed.items():
        yield f"\nFailed: {name} on {table}, seed {', '.join(map(str, where))}: {error}"


def by_table(rows: Rows, name: str, figure: str) -> dict[str, float]:
    """A model's mean over seeds, a table."""
    found: dict[str, list[float]] = {}
    for (model, table, _), row in rows.items():
        if model == name:
            found.setdefault(table, []).append(float(row[figure]))
    return {table: float(np.mean(values)) for table, values in found.items()}


def mean(figures: dict[str, float]) -> float:
    return float(np.mean(list(figures.values())))


def difference(rows: Rows, name: str, other: str, figure: str, resamples: int = 10_000) -> str:
    """Mean difference over common tables and seeds, and its intervals."""
    found: dict[str, list[float]] = {}
    for model, table, seed in rows:
        if model == name and (other, table, seed) in rows:
            ours, theirs = (float(rows[model, table, seed][figure]) for model in (name, other))
            found.setdefault(table, []).append(ours - theirs)
    if not found:
        return ""
    rng = np.random.default_rng(0)
    means = np.array([np.mean(values) for values in found.values()])
    over_tables = rng.choice(means, (resamples, len(means))).mean(1)
    text = f"{means.mean():+.2f} ({interval(over_tables)})"
    if min(map(len, found.values())) > 1:
        drawn = [rng.choice(values, (resamples, len(values))).mean(1) for values in found.values()]
        text += f" [{interval(np.mean(drawn, 0))}]"
    return text


def interval(values: np.ndarray) -> str:
    return "{:+.2f} to {:+.2f}".format(*np.quantile(values, (0.025, 0.975)))


def quoted(anchors: Path) -> Iterator[str]:
    """The paper's own figures on these tables."""
    found: dict[str, list[float]] = {}
    for figure in ("auroc", "ap"):
        with open(anchors / f"detection_published_semi_{figure}.csv", newline="") as handle:
            rows = list(csv.DictReader(handle))
        for name in QUOTED:
            found.setdefault(name, []).append(float(np.mean([float(row[name]) for row in rows])))
    yield "\nAs published for this leaking protocol, on these tables (Livernoche et al., ICLR 2024):\n"
    yield "| | AUROC | AP |\n|---|---|---|"
    for name, figures in found.items():
        yield f"| {name} | {figures[0]:.2f} | {figures[1]:.2f} |"


if __name__ == "__main__":
    main()
