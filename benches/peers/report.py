"""Tables in Markdown from the samples of a run."""

from __future__ import annotations

import re
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from loads import Load

# Two runs of the same thing differ by this much on a shared machine.
TIE = 0.10

# Where the figures of this command begin.
RESULTS = "<!-- results: made by benches/peers/run, do not edit below -->"

# Where the part of the page begins that another command makes.
SCENARIOS = "<!-- made by benches/scenarios/run, do not edit below -->"


@dataclass
class Results:
    """Every sample: by load, by subject, by round."""

    rounds: dict[tuple[str, str], dict[int, dict[str, float]]] = field(default_factory=dict)
    # Samples that could not be taken.
    lost: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, load: str, subject: str, turn: int, values: dict[str, float]) -> None:
        """Keeps one sample."""
        self.rounds.setdefault((load, subject), {})[turn] = values

    def lose(self, load: str, subject: str) -> None:
        """Counts a sample that failed."""
        self.lost[load, subject] = self.lost.get((load, subject), 0) + 1

    def values(self, load: str, subject: str, name: str) -> list[float]:
        """One value over the rounds."""
        return [sample[name] for sample in self.rounds.get((load, subject), {}).values()]

    def ratios(self, load: str, base: str, subject: str, name: str) -> list[float]:
        """The base's value by the subject's, round by round: what slowed a round down slowed both."""
        ours, theirs = self.rounds.get((load, base), {}), self.rounds.get((load, subject), {})
        both = [turn for turn in ours if turn in theirs and theirs[turn][name] > 0]
        return [ours[turn][name] / theirs[turn][name] for turn in both]

    def of(self, loads: Collection[str]) -> Results:
        """What there is of these loads."""
        return Results(
            {key: rounds for key, rounds in self.rounds.items() if key[0] in loads},
            {key: lost for key, lost in self.lost.items() if key[0] in loads},
        )

    def disturbance(self) -> str:
        """How much others took of the machine during the samples, as one line of a list."""
        shares = [sample["others"] for rounds in self.rounds.values() for sample in rounds.values()]
        if not shares:
            return ""
        loud = sum(share > TIE for share in shares)
        return (
            f"* other work took {statistics.median(shares):.0%} of the machine's processor time in the median sample,"
            f" and more than {TIE:.0%} in {loud} of {len(shares)}\n"
        )


def page(before: str, text: str, parts: dict[str, str]) -> str:
    """The whole page: its text, the parts that were measured, and of the page `before` the protocols that were not and
    the scenarios."""
    figures, mark, scenarios = before.partition(RESULTS)[2].partition(SCENARIOS)
    kept = dict(re.findall(r"<!-- (tcp|udp) -->\n\n(.*?)\n(?=\n<!-- |\Z)", figures + "\n", re.DOTALL))
    protocols = "".join(
        f"\n<!-- {name} -->\n\n{part.strip()}\n" for name in ("tcp", "udp") if (part := parts.get(name, kept.get(name)))
    )
    return f"{text.partition(RESULTS)[0]}{RESULTS}\n{protocols}{mark and chr(10)}{mark}{scenarios}"


def table(results: Results, load: Load, subjects: Sequence[str], base: str) -> str:
    """One load's table; empty if nothing was measured."""
    rows = [name for name in subjects if results.rounds.get((load.name, name)) or (load.name, name) in results.lost]
    if not rows:
        return ""
    against = base in rows and len(rows) > 1
    headings = ["", *(heading for heading, _ in load.columns)]
    if against:
        headings += [f"{base} ÷ this: {_heading(load, name)}" for name in load.compared]
    lines = [f"### {load.title}", "", _row(headings), _row(["---"] + ["---:"] * (len(headings) - 1))]
    for subject in rows:
        cells = [subject, *(_cell(results, load, subject, name) for _, name in load.columns)]
        if against:
            cells += [_ratio(results, load, base, subject, name) for name in load.compared]
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def _heading(load: Load, name: str) -> str:
    return next((heading for heading, value in load.columns if value == name), name)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(results: Results, load: Load, subject: str, name: str) -> str:
    values = results.values(load.name, subject, name)
    lost = results.lost.get((load.name, subject), 0) if name == "errors" else 0
    note = f" (samples lost: {lost})" if lost else ""
    if not values:
        return f"–{note}"
    if name == "errors":
        return f"{sum(values):.0f}{note}"
    if subject == "direct" and name == "cpu":
        return "–"
    low, middle, high = min(values), statistics.median(values), max(values)
    return _number(middle) if low == high else f"{_number(middle)} ({_number(low)}–{_number(high)})"


def _ratio(results: Results, load: Load, base: str, subject: str, name: str) -> str:
    ratios = results.ratios(load.name, base, subject, name) if subject != base else []
    if not ratios:
        return "–"
    ratio = statistics.median(ratios)
    return f"tie ({ratio:.2f})" if abs(ratio - 1) < TIE else f"**{ratio:.2f}**"


def _number(value: float) -> str:
    """Three digits that matter; counts whole."""
    size = abs(value)
    if value == int(value):
        return f"{value:,.0f}"
    return (
        f"{value:,.0f}"
        if size >= 100
        else f"{value:.1f}"
        if size >= 10
        else f"{value:.2f}"
        if size >= 1
        else f"{value:.3f}"
    )
