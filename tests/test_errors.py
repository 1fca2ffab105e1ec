"""What a user sees when something is wrong: the column or argument, the value, and what to do."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.exceptions import NotFittedError

import lookalike as la

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 2))
FRAME = pd.DataFrame(X, columns=["amount", "age"]).assign(kind=["a", "b"] * 100)


@pytest.fixture(scope="module")
def on_array(family):
    return family(max_steps=3).fit(X)


@pytest.fixture(scope="module")
def on_frame(family):
    return family(max_steps=3).fit(FRAME)


def refused(call, error, words):
    with pytest.raises(error, match=re.escape(words)) as caught:
        call()
    assert not isinstance(caught.value, AssertionError | RecursionError)


def bad(column, value, row=3):
    table = FRAME.copy().astype({column: object}) if isinstance(value, str) else FRAME.copy()
    table.iloc[row, table.columns.get_loc(column)] = value
    return table


PREDICTING = [
    (lambda: bad("amount", np.nan), "column 'amount' is missing (NaN or null) in row 3, but had no missing"),
    (lambda: bad("amount", np.inf), "column 'amount' holds inf in row 3"),
    (lambda: FRAME.assign(amount="12,5"), "'amount' held numbers in fit, but now holds text, such as '12,5'"),
    (lambda: bad("amount", "12,5"), "column 'amount' mixes types"),
    (lambda: FRAME.assign(kind=3), "column 'kind' held text in fit, but now holds whole numbers, such as 3"),
    (lambda: FRAME.drop(columns="age"), "column 'age' is missing, but fit saw it"),
    (lambda: FRAME.rename(columns={"amount": "amout"}), "was not seen in fit. Did you mean 'amount'?"),
    (lambda: FRAME.assign(extra=1), "column 'extra' was not seen in fit. Drop it or fit again."),
    (lambda: FRAME[["amount", "amount", "age", "kind"]], "column name 'amount' is used twice"),
    (lambda: FRAME.head(0), "Found array with 0 sample(s) (shape=(0, 3))"),
    (lambda: "rows.csv", "a builtins.str is not a table"),
    (lambda: FRAME.assign(amount=FRAME["amount"] + 1j), "Complex data not supported: column 'amount'"),
]  # fmt: skip


@pytest.mark.parametrize("table, words", PREDICTING, ids=[words[:40] for _, words in PREDICTING])
@pytest.mark.parametrize("method", ["score_samples", "explain"])
def test_a_frame_that_does_not_fit_is_refused(on_frame, method, table, words):
    refused(lambda: getattr(on_frame, method)(table()), la.SchemaError, words)


ARRAYS = [
    (lambda: X[:, :1], "X has 1 features, but {} is expecting 2 features as input"),
    (lambda: X[0], "expected a 2-D table, got 1 dimension(s) of shape (2,). Reshape your data"),
    (lambda: X[None], "{} learned from a 2-D table, and got an array of images"),
    (lambda: X[:0], "Found array with 0 sample(s) (shape=(0, 2))"),
    (lambda: X[:, :0], "Found array with 0 feature(s) (shape=(200, 0))"),
    (lambda: np.where(X > 2, np.inf, X), "holds inf in row"),
    (lambda: np.where(X > 2, np.nan, X), "is missing (NaN or null) in row"),
    (lambda: X.astype(str), "held numbers in fit, but now holds text"),
    (lambda: X + 1j, "Complex data not supported"),
    (lambda: scipy.sparse.csr_matrix(X), "sparse input (scipy.csr_matrix) is not supported. Make it dense"),
    (lambda: [[1.0, 2.0], [3.0]], "the data cannot be read as rows of one length"),
]  # fmt: skip


@pytest.mark.parametrize("table, words", ARRAYS, ids=[words[:40] for _, words in ARRAYS])
def test_an_array_that_does_not_fit_is_refused(on_array, table, words):
    words = words.format(type(on_array).__name__)
    refused(lambda: on_array.predict(table()), la.SchemaError, words)


FITTING = [
    (lambda: X[:1], "fit needs at least 2 rows, got n_samples = 1: one to learn from, one to calibrate"),
    (lambda: X[:0], "Found array with 0 sample(s)"),
    (lambda: pd.DataFrame(index=range(5)), "Found array with 0 feature(s)"),
    (lambda: bad("age", -np.inf, 7), "column 'age' holds -inf in row 7"),
    (lambda: FRAME[["age", "age"]], "column name 'age' is used twice"),
    (lambda: pd.DataFrame({"key": [f"k{i}" for i in range(99)]}), "no column is left to model: 'key' is"),
    (lambda: FRAME.assign(kind=[b"x"] * 200), "column 'kind' holds"),
    (lambda: FRAME.assign(kind=[["x"]] * 200), "column 'kind' holds a list in row 0"),
    (lambda: scipy.sparse.csr_matrix(X), "sparse input (scipy.csr_matrix) is not supported"),
    (lambda: X + 1j, "Complex data not supported"),
    (lambda: None, "a builtins.NoneType is not a table"),
]  # fmt: skip


@pytest.mark.parametrize("table, words", FITTING, ids=[words[:40] for _, words in FITTING])
def test_a_table_that_cannot_be_learned_from_is_refused(family, table, words):
    refused(lambda: family().fit(table()), la.SchemaError, words)


PARAMETERS = [
    ("width", 0, "width must be a whole number from 1 to 65,536, got 0."),
    ("width", 1.5, "width must be a whole number from 1 to 65,536, got 1.5."),
    ("depth", "2", "depth must be a whole number from 1 to 1,000, got '2'."),
    ("depth", None, "depth must be a whole number from 1 to 1,000, got None."),
    ("n_steps", True, "n_steps must be a whole number from 1 to 10,000, got True."),
    ("max_steps", 0, "max_steps must be a whole number of at least 1, got 0."),
    ("max_steps", 10**400, None),
    ("max_seconds", 0, "max_seconds must be a number of at least 0.001, got 0."),
    ("max_seconds", np.inf, "max_seconds must be a number of at least 0.001, got inf."),
    ("batch_size", -5, "batch_size must be a whole number from 1 to 1,048,576, got -5."),
    ("learning_rate", 0, "learning_rate must be a number from 1e-12 to 10, got 0."),
    ("learning_rate", np.nan, "learning_rate must be a number from 1e-12 to 10, got nan."),
    ("max_levels", 1, "max_levels must be a whole number from 2 to 1,000,000, got 1."),
    ("contamination", 0.9, 'contamination must lie in (0, 0.5] or be "auto", got 0.9.'),
    ("contamination", 0, 'contamination must lie in (0, 0.5] or be "auto", got 0.'),
    ("contamination", "automatic", 'contamination must lie in (0, 0.5] or be "auto", got \'automatic\'.'),
    ("early_stopping", "no", "early_stopping must be True or False, got 'no'."),
    ("schema", ["age"], "schema must map names of columns to their kinds, such as"),
    ("callbacks", print, "callbacks must be a sequence of callables, or None, got <built-in"),
    ("callbacks", [3], "callbacks must be a sequence of callables, or None, got [3]."),
    ("device", "gpu", 'device must be "auto", "cpu" or "cuda", got \'gpu\'.'),
    ("device", None, 'device must be "auto", "cpu", "cuda" or another that torch knows, got None.'),
    ("random_state", -1, "random_state must lie in [0, 2**64), got -1."),
]  # fmt: skip


@pytest.mark.parametrize(
    "name, value, words", PARAMETERS, ids=[f"{n}-{str(v)[:9]}" for n, v, _ in PARAMETERS]
)
def test_a_bad_parameter_states_its_range_and_value(family, name, value, words):
    if name not in family().get_params():
        pytest.skip(f"the family has no {name}")
    model = family(**{name: value})  # as scikit-learn has it, constructors take anything
    if words is None:
        assert model.set_params(max_steps=2, max_seconds=0.001)
    else:
        refused(lambda: model.fit(X), ValueError, words)


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("latent_dim", 0, "latent_dim must be a whole number from 1 to 65,536, got 0."),
        ("beta", -1, "beta must be a number of at least 0, got -1."),
    ],
)
def test_a_bad_parameter_of_one_family_too(name, value, words):
    refused(lambda: la.VAE(**{name: value}).fit(X), ValueError, words)


def test_a_bad_gamma_states_its_range():
    refused(lambda: la.GAN(gamma="x").fit(X), ValueError, "gamma must be a number of at least 0, got 'x'.")


def test_a_random_state_of_another_type_is_refused(family):
    refused(
        lambda: family(random_state="0").fit(X),
        TypeError,
        "random_state must be an integer, a numpy RandomState",
    )


def test_a_kind_for_a_column_that_is_not_there_is_refused(family):
    refused(
        lambda: family(schema={"amout": la.Number()}).fit(FRAME),
        la.SchemaError,
        "schema names column 'amout', which the data lack. Did you mean 'amount'?",
    )
    refused(
        lambda: family(schema={"amount": la.Number}).fit(FRAME),
        la.SchemaError,
        "schema['amount'] must be a kind of column, such as la.Number()",
    )


METHODS = ["score_samples", "decision_function", "predict", "anomaly_score", "p_values", "explain", "impute"]


@pytest.mark.parametrize("method", METHODS)
def test_an_unfitted_estimator_refuses(family, method):
    name = family.func.__name__
    refused(lambda: getattr(family(), method)(X), NotFittedError, f"This {name} instance is not fitted yet")


def test_an_unfitted_estimator_generates_and_saves_nothing(family, tmp_path):
    with pytest.raises(NotFittedError):
        family().generate(3)
    with pytest.raises(NotFittedError):
        family().save(tmp_path / "m.lookalike")
    assert not list(tmp_path.iterdir())


def test_a_failed_fit_does_not_pass_for_a_fitted_model(family):
    model = family()
    with pytest.raises(la.SchemaError):
        model.fit(X[:1])
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_saving_where_no_folder_is_names_the_path(on_array, tmp_path):
    refused(lambda: on_array.save(tmp_path / "no" / "m.lookalike"), FileNotFoundError, "no/m.lookalike")


@pytest.mark.parametrize("package", ["torch", "sklearn", "tqdm"])
@pytest.mark.parametrize("statement", ["lookalike.VAE", "from lookalike import load"])
def test_a_missing_package_is_reported_with_the_line_that_installs_it(package, statement):
    code = f"""
import sys
sys.modules[{package!r}] = None
import lookalike
try:
    {statement}
except lookalike.MissingExtraError as error:
    print(error)
lookalike.Schema, lookalike.select
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f'needs {package}. Install it with: pip install "lookalike[train]"' in done.stdout
