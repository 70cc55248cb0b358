"""Tables in Markdown from the records of samples."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bounds import OURS, Round, away, part
from scenarios import SCENARIOS, Scenario

# A peer that is better by more than this is a loss.
TIE = 0.05

Record = dict
Column = tuple[str, Callable[[Record], "float | None"], str]


class Results:
    """Every sample: by scenario, by proxy, by seed. A later sample takes the place of an earlier one of the same."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[str, dict[int, Record]]] = {}

    def add(self, record: Record) -> None:
        proxies = self.samples.setdefault(record["scenario"], {})
        proxies.setdefault(record["proxy"], {})[record["seed"]] = record

    def has(self, scenario: str, proxy: str, seed: int) -> bool:
        return "spans" in self.samples.get(scenario, {}).get(proxy, {}).get(seed, {})

    def measured(self, scenario: str, proxy: str) -> list[Record]:
        return [each for each in self.samples.get(scenario, {}).get(proxy, {}).values() if "spans" in each]

    def rounds(self, scenario: str) -> list[Round]:
        """What each seed gave, in all scenarios."""
        seeds = sorted({seed for proxies in self.samples.get(scenario, {}).values() for seed in proxies})
        return [Round({(key, name): by_seed[seed] for key, proxies in self.samples.items()
                       for name, by_seed in proxies.items() if seed in by_seed}, scenario) for seed in seeds]


def read(files: Iterable[Path]) -> Results:
    """The samples of earlier runs; a line that a run did not get to finish is left out."""
    results = Results()
    for file in files:
        for line in file.read_text().splitlines():
            try:
                results.add(json.loads(line))
            except json.JSONDecodeError:
                continue
    return results


def table(scenario: Scenario, results: Results, proxies: Sequence[str]) -> str:
    """One scenario's table and what became of its bounds; empty if nothing was measured."""
    seen = results.samples.get(scenario.key, {})
    if not seen:
        return ""
    columns = columns_of(scenario)
    text = f"### {scenario.key}: {scenario.title}\n\n"
    text += row(["", *(heading for heading, _, _ in columns)]) + row(["---", *["---:"] * len(columns)])
    for name in [*(each for each in proxies if each in seen), *(each for each in seen if each not in proxies)]:
        records = results.measured(scenario.key, name)
        if records:
            text += row([name, *(cell(records, column) for column in columns)])
        else:
            why = next(iter(seen[name].values())).get("failed", "")
            text += row([name, f"not measured: {why}"])
    for bound in scenario.bounds:
        verdict = bound.judge(results.rounds(scenario.key))
        if verdict:
            text += f"\n* {'held' if verdict[1] else '**MISSED**'}: {verdict[0]}"
    if scenario.elsewhere:
        text += f"\n* in the simulator: {scenario.elsewhere}"
    return text + "\n"


def columns_of(scenario: Scenario) -> list[Column]:
    """Headings, values of one record, and how they are written."""

    def span(name: str, figure: Callable[[dict], float | None]) -> Callable[[Record], float | None]:
        return lambda record: figure(record["spans"][name])

    found: list[Column] = [
        ("p50 ms", span("counted", lambda it: it["p50"]), ".1f"), ("p99", span("counted", lambda it: it["p99"]), ".0f±"),
        ("p99.9", span("counted", lambda it: it["p999"]), ".0f"), ("errors", span("counted", error_share), ".3%"),
    ]
    if scenario.event:
        found += [("5 s after the event: p99", span(scenario.event, lambda it: it["p99"]), ".0f±"),
                  ("errors", span(scenario.event, error_share), ".3%")]
    if any(command.startswith("home-0") for _, command in scenario.events(60)) and scenario.event == "event":
        found.append(("home-0 from 2 s after on", span("later", lambda it: part(it["answers"], "home-0")), ".2%"))
    if scenario.zones:
        found.append(("from other zones", span("counted", lambda it: away(it["answers"])), ".1%"))
    return found


def cell(records: list[Record], column: Column) -> str:
    """The median over the rounds, with the lowest and the highest where they are asked for."""
    _, figure, form = column
    values = [found for record in records if (found := figure(record)) is not None]
    if not values:
        return "–"

    def show(number: float) -> str:
        return format(number, form.rstrip("±"))

    spread = f" ({show(min(values))}–{show(max(values))})" if form.endswith("±") and len(values) > 1 else ""
    return show(statistics.median(values)) + spread


def error_share(span: dict) -> float:
    return span["errors"] / max(1, span["requests"])


def beside_peers(results: Results) -> str:
    """For each scenario the best peer by p99 and by errors, in the span that the scenario is about."""
    text = row(["", "p99 ms", "best peer", "ours ÷ best", "errors", "best peer", ""])
    text += row(["---", *["---:"] * 5, "---"])
    for scenario in SCENARIOS:
        peers = [name for name in results.samples.get(scenario.key, {})
                 if not name.startswith("dislocate") and results.measured(scenario.key, name)]
        if not peers or not results.measured(scenario.key, OURS):
            continue
        p99 = {name: median(results, scenario, name, lambda span: span["p99"]) for name in [OURS, *peers]}
        errors = {name: median(results, scenario, name, error_share) for name in [OURS, *peers]}
        fastest, surest = min(peers, key=p99.__getitem__), min(peers, key=errors.__getitem__)
        times = p99[OURS] / max(0.001, p99[fastest])
        behind = [what for what, values, best in [("p99", p99, fastest), ("errors", errors, surest)]
                  if values[OURS] > values[best] * (1 + TIE)]
        verdict = f"**behind in {' and '.join(behind)}**" if behind else "not behind"
        if scenario.twice:
            verdict += ", at least twice as good" if times <= 0.5 else ", **not twice as good**"
        text += row([f"{scenario.key}: {scenario.title}", f"{p99[OURS]:.0f}", f"{p99[fastest]:.0f} {fastest}",
                     f"{times:.2f}", f"{errors[OURS]:.3%}", f"{errors[surest]:.3%} {surest}", verdict])
    return text


def missed(results: Results) -> str:
    """How many bounds were held, and those that were not."""
    judged = [(scenario.key, verdict) for scenario in SCENARIOS if scenario.key in results.samples
              for bound in scenario.bounds if (verdict := bound.judge(results.rounds(scenario.key)))]
    lines = [f"* {key}: {what}\n" for key, (what, held) in judged if not held]
    return f"{len(judged) - len(lines)} of {len(judged)} were held. Missed:\n\n" + "".join(lines)


def waiting(results: Results) -> str:
    """How long proxies were ready to run and had no processor, for each answer of a sample."""
    waits = [sum(each["proxy_waited"]) / answers * 1000 for proxies in results.samples.values()
             for by_seed in proxies.values() for each in by_seed.values()
             if (answers := sum(sum(second.values()) for second in each.get("seconds", [])))]
    if not waits:
        return ""
    return (f"In the median of {len(waits)} samples a proxy was without a processor that it could have used for"
            f" {statistics.median(waits):.2f} ms an answer, {max(waits):.2f} ms in the worst.\n")


def median(results: Results, scenario: Scenario, proxy: str, figure: Callable[[dict], float]) -> float:
    return statistics.median(figure(each["spans"][scenario.judged]) for each in results.measured(scenario.key, proxy))


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"
