"""What dislocate has set out to reach beside its peers, and whether this run shows it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import udp
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


def _beside_best(load: str, name: str = "cpu", highest: bool = False) -> Callable[[Results], float | None]:
    """The same beside the peer with the lowest median processor time, or the lowest or highest of another value."""

    def measure(results: Results) -> float | None:
        medians = {peer: statistics.median(results.values(load, peer, name)) for peer in _peers(results, load)}
        if not medians:
            return None
        best = (max if highest else min)(medians, key=lambda peer: medians[peer])
        return _median(results.ratios(load, BASE, best, name))

    return measure


def _peers(results: Results, load: str) -> set[str]:
    return {subject for of, subject in results.rounds if of == load} - {BASE, "direct"}


def _lost_above_best(load: str) -> Callable[[Results], float | None]:
    """Per cent lost a step above the highest rate that the best peer carries in the median."""

    def measure(results: Results) -> float | None:
        carried = [
            step
            for peer in _peers(results, load)
            for step in range(len(udp.STEPS))
            if statistics.median(results.values(load, peer, f"lost{step}")) < udp.CARRIED
        ]
        above = max(carried, default=len(udp.STEPS)) + 1
        # Where no peer carries any of the rates, or one carries them all, the question has no answer here.
        return _median(results.values(load, BASE, f"lost{above}")) if above < len(udp.STEPS) else None

    return measure


def _own(load: str, name: str) -> Callable[[Results], float | None]:
    return lambda results: _median(results.values(load, BASE, name))


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _beside_twice_direct(load: str) -> Callable[[Results], float | None]:
    """There are two hops where the direct path has one."""

    def measure(results: Results) -> float | None:
        ratio = _median(results.ratios(load, BASE, "direct", "p99"))
        return None if ratio is None else ratio / 2

    return measure


def _bulk(load: str, way: str) -> list[Goal]:
    return [
        Goal(f"{way}, 16 streams: proxy CPU by that of haproxy", 0.25, _beside(load, "haproxy", "cpu")),
        Goal(f"{way}, 16 streams: proxy CPU by that of nginx", 0.4, _beside(load, "nginx", "cpu")),
        Goal(f"{way}, 16 streams: proxy CPU by that of the best peer", 1.0, _beside_best(load)),
        Goal(f"{way}, 16 streams: rate by that of haproxy-tuned", 0.95, _beside(load, "haproxy-tuned", "rate"), True),
    ]


def _datagrams(size: int) -> list[Goal]:
    name = f"UDP, {size} bytes"
    return [
        Goal(f"{name}: proxy CPU by that of the best peer", 0.8, _beside_best(f"udp-{size}")),
        Goal(f"{name}: % lost at 1.2 × what a peer carries", udp.CARRIED, _lost_above_best(f"udp-rates-{size}")),
        Goal(f"{name}, 1 % load: p99 by twice that of the direct path", 1.3, _beside_twice_direct(f"udp-low-{size}")),
    ]


GOALS = [
    *_bulk("down-16", "Download"),
    *_bulk("up-16", "Upload"),
    Goal("Request: proxy CPU by that of the best peer", 0.92, _beside_best("requests")),
    Goal("Short connection: proxy CPU by that of the best peer", 1.0, _beside_best("short")),
    Goal("Idle connection: KiB", 2.0, _own("idle", "memory")),
    Goal("Idle connection: descriptors", 2.0, _own("idle", "descriptors")),
    Goal("Start to first byte: ms", 10.0, _own("startup", "startup")),
    *(goal for size in udp.SIZES for goal in _datagrams(size)),
    Goal("UDP trains: rate by that of nginx", 7.0, _beside("udp-trains", "nginx", "rate"), True),
    Goal("UDP trains: proxy CPU by that of nginx", 0.14, _beside("udp-trains", "nginx", "cpu")),
    Goal("New UDP flow: rate by that of the best peer", 2.0, _beside_best("udp-brief", "rate", True), True),
    Goal("Idle UDP flow: KiB", 1.0, _own("udp-idle", "memory")),
]
