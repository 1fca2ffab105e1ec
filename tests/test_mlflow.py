"""MLflow with its tracking and registry in a database of the test: what is logged comes back, checked."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, TINY_MIXTURE
from pandas.testing import assert_frame_equal

import lookalike as la
from lookalike import runtime
from lookalike.integrations.scorer import Scorer

REASON = "of MLflow; install it with: pip install lookalike[mlflow]"
mlflow = pytest.importorskip("mlflow", reason=REASON)
pytest.importorskip("sqlalchemy", reason=REASON)
la_mlflow = pytest.importorskip("lookalike.integrations.mlflow", reason=REASON)
pytestmark = [
    pytest.mark.slow,
    # What MLflow calls of SQLAlchemy is deprecated there, and it warns of a class of its own as it loads it.
    pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

NEW = ["anomaly_score", "p_value", "is_anomaly"]


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("people", (folder / "artifacts").as_uri()))
    return uri


@pytest.fixture(scope="module")
def logged(tracking, people_file):
    with mlflow.start_run():
        return la_mlflow.log_model(people_file, "people", registered_model_name="people")


def test_a_registered_model_is_the_file_that_was_exported(logged, people_file, rows):
    model = la_mlflow.load_model("models:/people/1", device="cpu")
    assert isinstance(model, runtime.Model)
    known = rows.drop(columns="note")
    np.testing.assert_array_equal(model.score_samples(known), runtime.load(people_file).score_samples(known))
    folder = Path(mlflow.artifacts.download_artifacts(logged.model_uri))
    (held,) = folder.rglob("*.onnx")
    assert held.read_bytes() == people_file.read_bytes()
    assert not [*folder.rglob("*.pkl"), *folder.rglob("*.py")]
    wanted = (folder / "requirements.txt").read_text()
    assert [line.partition("==")[0] for line in wanted.split()] == [
        "lookalike[cpu]",
        "mlflow-skinny",
        "pandas",
    ]


def test_a_pyfunc_takes_the_frame_as_it_is(logged, people_file, rows):
    served = mlflow.pyfunc.load_model("models:/people/1")
    frame = rows.reset_index(drop=True)
    wanted = Scorer(people_file, reasons=2)(frame)
    assert_frame_equal(served.predict(frame), wanted[NEW])
    said = served.predict(frame, params={"reasons": 2})
    assert_frame_equal(said, wanted[list(said)])
    assert "reason_2_share" in said
    names = {spec.name: str(spec.type) for spec in served.metadata.signature.inputs}
    assert names["income"] == "DataType.double"
    assert names["age"] == "DataType.long"
    assert names["member"] == "DataType.boolean"
    assert names["city"] == "DataType.string"
    assert "key" not in names
    with pytest.raises(mlflow.MlflowException, match="missing inputs"):
        served.predict(frame.drop(columns="city"))
    with pytest.raises(mlflow.MlflowException, match="Incompatible input types for column income"):
        served.predict(frame.assign(income="much"))


def test_arrays_go_through_mlflows_own_onnx(logged, people_file):
    graph = mlflow.onnx.load_model(logged.model_uri)
    assert "score" in {output.name for output in graph.graph.output}


def test_loading_needs_no_torch(logged, tracking):
    code = f"""
import sys, mlflow
mlflow.set_tracking_uri({tracking!r})
served = mlflow.pyfunc.load_model("models:/people/1")
assert not {{"torch", "sklearn", "onnx"}} & set(sys.modules), "more was loaded than runs the file"
print(served.metadata.flavors["lookalike"]["task"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["score"]


def test_another_file_than_the_one_logged_is_refused(logged, tmp_path):
    folder = Path(mlflow.artifacts.download_artifacts(logged.model_uri, dst_path=str(tmp_path)))
    assert la_mlflow.load_model(str(folder)).task == "score"
    (held,) = folder.rglob("*.onnx")
    other = runtime.load(held)
    other.set_threshold(false_alarm_rate=0.2)
    other.save(held)
    with pytest.raises(la.ArtifactError, match=r"has the SHA-256 .*, not the .* asked for"):
        la_mlflow.load_model(str(folder))
    with pytest.raises(la.ArtifactError, match="has the SHA-256"):
        mlflow.pyfunc.load_model(str(folder))


def test_what_generates_and_imputes_is_logged_as_well(tracking, people):
    model = la.Mixture(**TINY_MIXTURE).fit(people)
    holes = people.reset_index(drop=True).head(30).drop(columns="key")
    holes.loc[::2, "income"] = np.nan
    for task in ("generate", "impute"):
        with mlflow.start_run():
            info = la_mlflow.log_model(model, task, task=task)
        served = mlflow.pyfunc.load_model(info.model_uri)
        found = served.predict(holes, params={"random_state": 3})
        assert found["income"].notna().all()
        np.testing.assert_array_equal(found["income"][1::2], holes["income"][1::2])
        raw = la_mlflow.load_model(info.model_uri)
        assert raw.task == task
        assert len(raw.generate(5) if task == "generate" else raw.impute(people.head(5))) == 5


def test_losses_of_a_fit_are_metrics_of_the_run(tracking, people):
    with mlflow.start_run() as run:
        la.GAN(**TINY, callbacks=[la_mlflow.log_losses]).fit(people)
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss_2")
    assert [entry.step for entry in history] == sorted({entry.step for entry in history})
    assert len(history) > 1
    assert pd.notna([entry.value for entry in history]).all()
