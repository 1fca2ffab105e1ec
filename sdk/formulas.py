"""Arithmetic on columns, as text that is read by a list of what it may hold and never executed."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import SchemaError

Floats = NDArray[np.float64]

_LONGEST = 1000  # characters: nobody writes more, and Python's parser recurses
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
    ast.USub: np.negative,
    ast.UAdd: np.positive,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {  # with how many arguments each takes
    "abs": (1, np.abs),
    "ceil": (1, np.ceil),
    "exp": (1, np.exp),
    "floor": (1, np.floor),
    "log": (1, np.log),
    "round": (1, np.rint),
    "sqrt": (1, np.sqrt),
    "min": (2, np.minimum),
    "max": (2, np.maximum),
    "where": (3, np.where),
}
_ALLOWED = "columns, numbers, + - * / // % **, one comparison at a time, parentheses, and " + ", ".join(
    _FUNCTIONS
)


class Expression:
    """Arithmetic on columns.

    Parameters
    ----------
    text : str
        Such as ``"price * quantity"``. Names that are no words stand in quotes: ``"'unit price' * 2"``.

    Attributes
    ----------
    names : tuple of str
        The columns in it, each once.

    Raises
    ------
    SchemaError
        If it holds anything else, or no column.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        names: dict[str, None] = {}
        if not isinstance(text, str) or len(text) > _LONGEST:
            raise SchemaError(f"a formula must be text of at most {_LONGEST} characters, got {text!r:.60}.")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise SchemaError(f"the formula {text!r} is not an expression: {error}.") from error
        self._evaluate = self._compiled(tree, names)
        self.names = tuple(names)
        if not names:
            raise SchemaError(f"the formula {text!r} names no column.")

    def _compiled(self, node: ast.expr, names: dict[str, None]) -> Callable[[Mapping[Any, Floats]], Any]:
        """A function of the columns; those that it reads are added to `names`."""
        match node:
            case ast.Name(id=name) | ast.Constant(value=str(name)):
                names[name] = None
                return lambda columns: columns[name]
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                value = np.float64(number)
                return lambda columns: value
            case (
                ast.BinOp(left=left, op=op, right=right)
                | ast.Compare(left=left, ops=[op], comparators=[right])
            ) if type(op) in _OPERATORS:
                return self._applied(_OPERATORS[type(op)], [left, right], names)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
                return self._applied(_OPERATORS[type(op)], [operand], names)
            case ast.Call(func=ast.Name(id=word), args=arguments, keywords=[]) if word in _FUNCTIONS:
                n, function = _FUNCTIONS[word]
                if len(arguments) == n:
                    return self._applied(function, arguments, names)
        raise SchemaError(
            f"the formula {self.text!r} holds {ast.unparse(node)!r}, which is not allowed. It may hold "
            f"{_ALLOWED}."
        )

    def _applied(
        self, function: Callable[..., Any], nodes: list[ast.expr], names: dict[str, None]
    ) -> Callable[[Mapping[Any, Floats]], Any]:
        parts = [self._compiled(node, names) for node in nodes]
        # Truth values as numbers, so that any of it can be added up.
        return lambda columns: np.asarray(function(*(part(columns) for part in parts)), np.float64)

    def __call__(self, columns: Mapping[Any, Floats]) -> Floats:
        """Compute it, (n,) float64; NaN where a column is missing or there is no result."""
        with np.errstate(all="ignore"):
            result: Floats = np.array(self._evaluate(columns), np.float64)
        result[~np.isfinite(result)] = np.nan
        for name in self.names:  # max, where and ** 0 would forget that a part is missing
            result[np.isnan(columns[name])] = np.nan
        return result
