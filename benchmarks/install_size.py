"""What each dependency weighs on disk: the numbers of docs/dependencies.md.

    python benchmarks/install_size.py

Prints megabytes (10**6 bytes) as installed, of the package itself and with those it requires. What the extras
name and is not installed is called absent.
"""

import importlib.metadata
from functools import cache

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@cache
def own_size(name: str) -> int:
    files = [file.locate() for file in importlib.metadata.files(name) or ()]
    return sum(file.stat().st_size for file in files if file.is_file())


def needs(name: str, extra: str = "") -> set[str]:
    """Names of what a package requires on this platform, or of what one of its extras adds."""
    found = [Requirement(text) for text in importlib.metadata.requires(name) or ()]
    return {
        canonicalize_name(need.name)
        for need in found
        if (need.marker is None or need.marker.evaluate({"extra": extra}))
        and bool(extra) == ("extra ==" in str(need.marker))
    }


def closure(name: str) -> set[str]:
    found: set[str] = set()
    left = {name}
    while left:
        one = left.pop()
        found.add(one)
        left |= needs(one) - found
    return found


def main() -> None:
    print(f"{'extra':<8}{'package':<20}{'version':<14}{'MB':>8}{'with all':>10}")
    for extra in ("", *importlib.metadata.metadata("lookalike").get_all("Provides-Extra", ())):
        for name in sorted(needs("lookalike", extra) - {"lookalike"}):
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                print(f"{extra or 'base':<8}{name:<20}absent")
                continue
            total = sum(map(own_size, closure(name)))
            print(
                f"{extra or 'base':<8}{name:<20}{version:<14}{own_size(name) / 1e6:>8.1f}{total / 1e6:>10.1f}"
            )


if __name__ == "__main__":
    main()
