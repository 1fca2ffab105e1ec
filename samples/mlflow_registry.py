"""Log a model of scikit-learn's tumours to MLflow, register it, and score with what the registry holds.

    python samples/mlflow_registry.py

The tracking server is a SQLite file in a folder that is removed again. Needs
pip install "lookalike[mlflow,train,onnx,cpu]".
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import mlflow
import numpy as np
from sklearn.datasets import load_breast_cancer

import lookalike as la
from lookalike.integrations import mlflow as la_mlflow


def main() -> None:
    tumours = load_breast_cancer(as_frame=True).data.iloc[:, :10]
    odd = tumours.head(3).assign(**{"mean radius": [18.0, 30.0, 9.0]})  # area and perimeter say otherwise
    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.set_experiment(
            experiment_id=mlflow.create_experiment("tumours", Path(folder, "files").as_uri())
        )
        with mlflow.start_run() as run:
            model = la.Diffusion(max_steps=600, random_state=0, callbacks=[la_mlflow.log_losses]).fit(tumours)
            mlflow.log_params({"family": "Diffusion", "rows": len(tumours)})
            la_mlflow.log_model(model, "tumours", registered_model_name="tumours")
        losses = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
        print(f"{len(losses)} losses logged, from {losses[0].value:.2f} to {losses[-1].value:.2f}")

        mlflow.MlflowClient().set_registered_model_alias("tumours", "champion", "1")
        served = mlflow.pyfunc.load_model("models:/tumours@champion")
        print("What the registry's pyfunc says of three tumours whose radius is another's:")
        print(served.predict(odd, params={"reasons": 1}).round(3).to_string())
        again = la_mlflow.load_model("models:/tumours@champion")
        apart = np.abs(again.score_samples(tumours) - model.score_samples(tumours)).max()
        print(f"A runtime model of the same file: scores differ from torch's by {apart:.0e} at most")
    print("Done.")


if __name__ == "__main__":
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    main()
