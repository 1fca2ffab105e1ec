"""Great Expectations: an expectation that not too many rows of a batch are odd.

Importing this module registers it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lookalike.errors import require
from lookalike.integrations.odd_rows import ALPHA, FewOdd

_PURPOSE = "gx", "an expectation"
_engine = require("great_expectations.execution_engine", *_PURPOSE).PandasExecutionEngine
_metrics = require("great_expectations.expectations.metrics.metric_provider", *_PURPOSE)
_pydantic = require("great_expectations.compatibility.pydantic", *_PURPOSE)
TableMetricProvider: Any = require(
    "great_expectations.expectations.metrics.table_metric_provider", *_PURPOSE
).TableMetricProvider
BatchExpectation: Any = require("great_expectations.expectations.expectation", *_PURPOSE).BatchExpectation

SHOWN = 20  # odd rows that a result names


class OddRows(TableMetricProvider):
    """Which rows of a batch are odd, (n_rows,)."""

    metric_name = "table.lookalike.odd_rows"
    value_keys = ("model", "alpha")

    @_metrics.metric_value(engine=_engine)  # type: ignore[untyped-decorator]  # theirs has no types here
    def _pandas(cls, execution_engine: Any, metric_domain_kwargs: Any, **kwargs: Any) -> Any:
        frame, _, _ = execution_engine.get_compute_domain(metric_domain_kwargs, domain_type="table")
        return FewOdd(at_most=1, **kwargs["metric_value_kwargs"]).odd(frame)


class ExpectFewOddRows(BatchExpectation):
    """Expect at most a share of the rows of a batch to have a p-value of `alpha` or less.

    Attributes
    ----------
    model : str
        Path of an exported file: a suite is saved as JSON, and names it.
    at_most : float
        The share, in [0, 1]. Of normal rows about `alpha` have such a p-value, so it should be above that.
    alpha : float
        From 0 to 1.

    Examples
    --------
    ::

        batch.validate(ExpectFewOddRows(model="orders.onnx", at_most=0.03))

    The result's `observed_value` is the share, and its `partial_unexpected_index_list` the numbers of the
    first odd rows. Batches are those of pandas.
    """

    model: str
    at_most: float = _pydantic.Field(ge=0, le=1)
    alpha: float = _pydantic.Field(default=ALPHA, ge=0, le=1)

    metric_dependencies: ClassVar[tuple[str, ...]] = (OddRows.metric_name,)
    success_keys: ClassVar[tuple[str, ...]] = ("model", "at_most", "alpha")
    args_keys: ClassVar[tuple[str, ...]] = success_keys

    def _validate(self, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        odd = metrics[OddRows.metric_name]
        few = FewOdd(self.model, self.at_most, self.alpha)
        result = {
            "observed_value": float(odd.mean()) if len(odd) else 0.0,
            "element_count": len(odd),
            "unexpected_count": int(odd.sum()),
            "partial_unexpected_index_list": np.flatnonzero(odd)[:SHOWN].tolist(),
        }
        return {"success": few.holds(odd), "result": result}
