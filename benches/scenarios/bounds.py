"""Bounds: a figure of one round, and what it may be. A bound is judged by the median over the rounds."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

OURS = "dislocate-latency"
LC = "dislocate-least_conn"
HOME_ONLY = "dislocate-strict"


@dataclass(frozen=True)
class Round:
    """What one seed gave: records by scenario and proxy, and the scenario that is looked at."""

    records: dict[tuple[str, str], dict]
    key: str

    def record(self, proxy: str = OURS, key: str = "") -> dict:
        """Empty where nothing was measured."""
        return self.records.get((key or self.key, proxy), {})

    def span(self, name: str, proxy: str = OURS, key: str = "") -> dict:
        return self.record(proxy, key).get("spans", {}).get(name, {})


@dataclass(frozen=True)
class Bound:
    """One bound; `figure` is None where the round lacks what it needs."""

    what: str
    figure: Callable[[Round], float | None]
    most: float
    least: float = 0.0
    form: str = ".2f"

    def judge(self, rounds: list[Round]) -> tuple[str, bool] | None:
        figures = [figure for each in rounds if (figure := self.figure(each)) is not None]
        if not figures:
            return None
        middle = statistics.median(figures)

        def show(number: float) -> str:
            return format(number, self.form)

        limits = f"at most {show(self.most)}" if not self.least else f"{show(self.least)} to {show(self.most)}"
        spread = f", {show(min(figures))}–{show(max(figures))} over the rounds" if len(figures) > 1 else ""
        return f"{self.what} {show(middle)} ({limits}{spread})", self.least <= middle <= self.most


def ratio(column: str, limit: float, against: str, span: str = "counted", key: str = "", name: str = "") -> Bound:
    """Ours over that of another proxy, or over our own in another span (of another scenario)."""

    def figure(seen: Round) -> float | None:
        other_span = "before" if against == "before" else span
        base = seen.span(other_span, OURS if against == "before" else against, key).get(column)
        value = seen.span(span).get(column)
        return value / base if value is not None and base else None

    named = name or {LC: "least_conn", HOME_ONLY: "home only"}.get(against, against)
    return Bound(f"{title(column)}{when(span)} by that {'of ' if '-' in against else ''}{named}", figure, limit)


def value(column: str, limit: float, span: str) -> Bound:
    return Bound(f"{title(column)}{when(span)} in ms", lambda seen: seen.span(span).get(column), limit, form=".0f")


def errors(limit: float, span: str = "counted") -> Bound:
    def figure(seen: Round) -> float | None:
        found = seen.span(span)
        return found["errors"] / max(1, found["requests"]) if found else None

    return Bound(f"errors{when(span)}", figure, limit, form=".3%")


def lost(limit: int, span: str = "counted") -> Bound:
    return Bound(f"requests lost{when(span)}", lambda seen: seen.span(span).get("errors"), limit, form=".0f")


def share(beginning: str, limit: float, span: str = "counted", of_all: float = 1.0) -> Bound:
    """The part of the answers that came from backends whose names begin so."""

    def figure(seen: Round) -> float | None:
        found = part(seen.span(span).get("answers"), beginning)
        return None if found is None else found * of_all

    return Bound(f"share of {beginning}{of_all_clients(of_all)}{when(span)}", figure, limit, form=".2%")


def cross(limit: float, least: float = 0.0, span: str = "counted", of_all: float = 1.0) -> Bound:
    """What came from other zones, as a part of the answers to the home zone's clients times `of_all`."""

    def figure(seen: Round) -> float | None:
        found = away(seen.span(span).get("answers"))
        return None if found is None else found * of_all

    return Bound(f"from other zones{of_all_clients(of_all)}{when(span)}", figure, limit, least, ".2%")


def deviation(limit: float, of_all: float, length: int = 1) -> Bound:
    """The standard deviation, over spans of so many seconds, of what came from other zones."""

    def figure(seen: Round) -> float | None:
        seconds = seen.record().get("seconds", [])
        counted = seconds[len(seconds) // 6:]
        spans = [sum(map(Counter, counted[at:at + length]), Counter[str]()) for at in range(0, len(counted), length)]
        shares = [found for answers in spans if (found := away(answers)) is not None]
        return statistics.pstdev(shares) * of_all if len(shares) > 1 else None

    return Bound(f"its standard deviation over spans of {length} s{of_all_clients(of_all)}", figure, limit, form=".2%")


def flips(limit: int) -> Bound:
    """How often the home gate of the busier instance moved."""
    return Bound("gate moved, times", lambda seen: max(seen.record().get("flips", {}).values(), default=None), limit,
                 form=".0f")


def part(answers: dict[str, int] | None, beginning: str) -> float | None:
    if not answers:
        return None
    return sum(count for name, count in answers.items() if name.startswith(beginning)) / sum(answers.values())


def away(answers: dict[str, int] | None) -> float | None:
    home = part(answers, "home")
    return None if home is None else 1 - home


def of_all_clients(factor: float) -> str:
    """The home zone's clients are what is measured; some bounds count those of all zones."""
    return "" if factor == 1.0 else ", of all zones' clients"


def title(column: str) -> str:
    return {"p999": "p99.9"}.get(column, column)


def when(span: str) -> str:
    return {
        "counted": "",
        "event": " in the 5 s after the event",
        "later": " 2 to 7 s after the event",
        "after": " from the event on",
        "returned": " from 5 s after the second event on",
        "settled": " from 10 s after the second event on",
        "last": " in the first 5 s after the pause",
        "steady": " from 5 s after the pause on",
    }[span]
