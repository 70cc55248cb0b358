"""What dislocate has set out to reach beside its peers, and whether this run shows it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from report import TIE, Results

BASE = "dislocate"


@dataclass(frozen=True)
class Goal:
    """One figure and the most (or, for `at_least`, the least) it may be."""

    text: str
    limit: float
    measure: Callable[[Results], float | None]
    at_least: bool = False

    def verdict(self, value: float) -> str:
        """Whether the figure keeps to the limit, and otherwise by how much not."""
        value = round(value, 2)
        if value >= self.limit if self.at_least else value <= self.limit:
            return "reached"
        by = abs(value / self.limit - 1)
        return f"missed by {by:.0%}" + (", within the noise" if by < TIE else "")


def table(results: Results) -> str:
    """The goals for which there are samples; empty without any."""
    lines: list[str] = []
    for goal in GOALS:
        value = goal.measure(results)
        if value is None:
            continue
        bound = f"{'≥' if goal.at_least else '≤'} {goal.limit:g}"
        lines.append(f"| {goal.text} | {bound} | {value:.2f} | {goal.verdict(value)} |")
    if not lines:
        return ""
    head = ["### Goals", "", "| | limit | measured | |", "| --- | ---: | ---: | --- |"]
    return "\n".join([*head, *lines]) + "\n"


def _beside(load: str, peer: str, name: str) -> Callable[[Results], float | None]:
    """The median over the rounds of dislocate's value by the peer's."""
    return lambda results: _median(results.ratios(load, BASE, peer, name))


def _beside_best(load: str) -> Callable[[Results], float | None]:
    """The same beside the peer with the lowest median processor time."""

    def measure(results: Results) -> float | None:
        peers = {subject for of, subject in results.rounds if of == load} - {BASE, "direct"}
        medians = {peer: statistics.median(results.values(load, peer, "cpu")) for peer in peers}
        if not medians:
            return None
        best = min(medians, key=lambda peer: medians[peer])
        return _median(results.ratios(load, BASE, best, "cpu"))

    return measure


def _own(load: str, name: str) -> Callable[[Results], float | None]:
    return lambda results: _median(results.values(load, BASE, name))


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _bulk(load: str, way: str) -> list[Goal]:
    return [
        Goal(f"{way}, 16 streams: proxy CPU by that of haproxy", 0.25, _beside(load, "haproxy", "cpu")),
        Goal(f"{way}, 16 streams: proxy CPU by that of nginx", 0.4, _beside(load, "nginx", "cpu")),
        Goal(f"{way}, 16 streams: proxy CPU by that of the best peer", 1.0, _beside_best(load)),
        Goal(f"{way}, 16 streams: rate by that of haproxy-tuned", 0.95, _beside(load, "haproxy-tuned", "rate"), True),
    ]


GOALS = [
    *_bulk("down-16", "Download"),
    *_bulk("up-16", "Upload"),
    Goal("Request: proxy CPU by that of the best peer", 0.92, _beside_best("requests")),
    Goal("Short connection: proxy CPU by that of the best peer", 1.0, _beside_best("short")),
    Goal("Idle connection: KiB", 2.0, _own("idle", "memory")),
    Goal("Idle connection: descriptors", 2.0, _own("idle", "descriptors")),
    Goal("Start to first byte: ms", 10.0, _own("startup", "startup")),
]
