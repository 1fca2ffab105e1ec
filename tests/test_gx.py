"""The expectation of Great Expectations, in a context of its own that writes and sends nothing."""

import os

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # of releases that had them

import numpy as np
import pytest

gx = pytest.importorskip(
    "great_expectations", reason="of Great Expectations; install it with: pip install lookalike[gx]"
)

from lookalike.integrations.gx import ExpectFewOddRows  # noqa: E402 - it imports what may be absent
from lookalike.integrations.scorer import Scorer  # noqa: E402


@pytest.fixture(scope="module")
def context():
    return gx.get_context(mode="ephemeral")


@pytest.fixture(scope="module")
def whole(context):
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("people")
    return asset.add_batch_definition_whole_dataframe("whole")


@pytest.fixture(scope="module")
def odd(people_file, rows):
    return Scorer(people_file)(rows)["p_value"].to_numpy() <= 0.1


def test_a_batch_with_too_many_odd_rows_is_seen(whole, people_file, rows, odd):
    batch = whole.get_batch({"dataframe": rows})
    fine = ExpectFewOddRows(model=str(people_file), at_most=odd.mean(), alpha=0.1)
    strict = ExpectFewOddRows(model=str(people_file), at_most=odd.mean() - 0.01, alpha=0.1)
    assert batch.validate(fine).success
    found = batch.validate(strict)
    assert not found.success
    assert found.result["observed_value"] == odd.mean()
    assert found.result["element_count"] == len(rows)
    assert found.result["unexpected_count"] == odd.sum()
    assert found.result["partial_unexpected_index_list"] == np.flatnonzero(odd)[:20].tolist()
    assert batch.validate(fine).exception_info["raised_exception"] is False


def test_it_is_part_of_suites_that_are_saved_and_run(context, whole, people_file, rows, odd):
    suite = context.suites.add(gx.ExpectationSuite(name="people"))
    suite.add_expectation(ExpectFewOddRows(model=str(people_file), at_most=0.5, alpha=0.1))
    suite.add_expectation(gx.expectations.ExpectColumnToExist(column="city"))
    kept = context.suites.get("people").to_json_dict()["expectations"][0]
    assert kept["type"] == "expect_few_odd_rows"
    assert kept["kwargs"] == {"model": str(people_file), "at_most": 0.5, "alpha": 0.1}
    definition = gx.ValidationDefinition(name="daily", data=whole, suite=suite)
    run = context.validation_definitions.add(definition).run(batch_parameters={"dataframe": rows})
    assert run.success
    assert [one.success for one in run.results] == [True, True]


def test_what_cannot_be_scored_fails_and_says_why(whole, people_file, rows):
    expectation = ExpectFewOddRows(model=str(people_file), at_most=0.5, alpha=0.1)
    found = whole.get_batch({"dataframe": rows.drop(columns="city")}).validate(expectation)
    assert not found.success
    assert "the table has no column 'city'" in str(found.exception_info)
    with pytest.raises(ValueError, match="at_most"):
        ExpectFewOddRows(model=str(people_file), at_most=2)
    few = whole.get_batch({"dataframe": rows}).validate(
        ExpectFewOddRows(model=str(people_file), at_most=0.5, alpha=1e-4)
    )
    assert not few.success
    assert "no p-value of this model is below" in str(few.exception_info)
