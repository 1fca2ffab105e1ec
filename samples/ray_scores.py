"""Score the flights that left New York in 2013 with Ray Data, and draw new ones.

    python samples/ray_scores.py

A mixture learns from 5,000 flights and is exported; the actors of Ray have the file alone, and no torch.
Needs pip install "lookalike[ray,demo]".
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pyarrow as pa
import ray
from nycflights import read_flights

import lookalike as la
from lookalike.integrations import ray as la_ray

COLUMNS = ["carrier", "origin", "dest", "distance", "dep_delay", "arr_delay", "air_time"]


def main(rows: int) -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    flights = read_flights()[COLUMNS].sample(rows, random_state=0)
    with tempfile.TemporaryDirectory() as folder:
        scoring, drawing = Path(folder) / "flights.onnx", Path(folder) / "flights-generate.onnx"
        model = la.Mixture(random_state=0).fit(flights.head(5000))
        model.export(scoring)
        model.export(drawing, task="generate")

        ds = ray.data.from_arrow(pa.Table.from_pandas(flights, preserve_index=False)).repartition(4)
        scored = la_ray.score(ds, scoring, concurrency=1, reasons=1).to_pandas()
        odd = scored[scored["is_anomaly"]].nlargest(5, "anomaly_score")
        print(f"{len(scored):,} flights scored, {scored['is_anomaly'].sum():,} of them odd. The oddest:")
        print(
            odd[
                ["carrier", "dest", "dep_delay", "anomaly_score", "reason_1", "reason_1_expected"]
            ].to_string()
        )

        drawn = la_ray.generate(drawing, 100_000, given={"origin": "JFK"}, random_state=1)
        counts = drawn.to_pandas()["carrier"].value_counts()
        print(f"{counts.sum():,} flights drawn. Of their carriers:")
        print(counts.head(5).to_string())
    ray.shutdown()
    print("Done.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000, help="flights to score")
    main(parser.parse_args().rows)
