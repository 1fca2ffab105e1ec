"""What `import lookalike as la` offers: there, documented, and loaded on first use."""

import inspect
import re

import pytest

import lookalike as la

PUBLIC = {name: getattr(la, name) for name in la._HOME}


def undocumented(name: str, value: object) -> list[str]:
    """Of a public object and its public methods, those whose first line is not a sentence."""
    members = {name: value}
    if inspect.isclass(value):
        members |= {
            f"{name}.{key}": member
            for key, member in inspect.getmembers(value)
            if not key.startswith("_")
            and (inspect.isroutine(member) or isinstance(member, property))
            and getattr(member, "__objclass__", value).__module__.startswith("lookalike")
            and (getattr(member, "__module__", None) or value.__module__).startswith("lookalike")
        }
    return [
        key
        for key, member in members.items()
        if (inspect.isclass(member) or inspect.isroutine(member) or isinstance(member, property))
        and not re.match(r"[^a-z\s].*[.?!]$", inspect.getdoc(member) or "", re.MULTILINE)
    ]


def test_all_lists_the_table() -> None:
    assert la.__all__ == ["__version__", *sorted(la._HOME)]
    assert dir(la) == sorted(la.__all__)


def test_every_public_name_is_found_where_the_table_says() -> None:
    strays = {
        name: value.__module__
        for name, value in PUBLIC.items()
        if (inspect.isclass(value) or inspect.isroutine(value)) and value.__module__ != la._HOME[name]
    }
    assert strays == {}


def test_every_public_name_is_documented() -> None:
    assert [key for name, value in PUBLIC.items() for key in undocumented(name, value)] == []


def test_a_missing_docstring_is_seen() -> None:
    class Bare:
        def fit(self) -> None: ...

    class Documented:
        """Say what it is."""

        def fit(self) -> None:
            """no sentence"""

    Bare.__module__ = Documented.__module__ = "lookalike.x"
    Bare.fit.__module__ = Documented.fit.__module__ = "lookalike.x"
    assert undocumented("Bare", Bare) == ["Bare", "Bare.fit"]
    assert undocumented("Documented", Documented) == ["Documented.fit"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'lookalike' has no attribute 'Vae'"):
        la.Vae  # noqa: B018
