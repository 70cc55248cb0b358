"""Tests that need no proxy: `python3 -m unittest discover --start-directory benches/scenarios`."""

from __future__ import annotations

import json
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "peers"))

import measure
import tables
from bounds import LC, OURS, Bound, Round, cross, deviation, ratio
from scenarios import SCENARIOS, ZONES, spans


def span(p99: float = 100.0, errors: int = 0, **answers: int) -> dict:
    named = {name.replace("_", "-"): count for name, count in answers.items()} or {"home-0": 100}
    return {"requests": 100, "errors": errors, "p50": 10.0, "p99": p99, "p999": 200.0, "answers": named}


def record(proxy: str, seed: int, scenario: str = "A2", **more) -> dict:
    return {"scenario": scenario, "proxy": proxy, "seed": seed, "spans": {name: span(**more) for name in spans(60)}}


def results(*records: dict) -> tables.Results:
    found = tables.Results()
    for each in records:
        found.add(each)
    return found


class Templates(unittest.TestCase):
    """The proxies' configurations."""

    def test_every_template_is_filled_completely_and_names_every_backend(self) -> None:
        scenario = next(each for each in SCENARIOS if each.zones)
        backends = measure.place(scenario, 1)
        values = dict.fromkeys(["LISTEN", "LISTEN_ADDRESS", "LISTEN_PORT", "ADMIN", "BALANCE", "ZONES"], "x")
        for template in sorted((measure.HERE / "config").iterdir()):
            filled = measure.render(template.read_text(), values, backends)
            with self.subTest(template.name):
                self.assertNotRegex(filled, r"@[A-Z_]+@", "every place is filled")
                self.assertTrue(all(each.host in filled for each in backends), "every backend is there")

    def test_priorities_have_no_gaps(self) -> None:
        near = next(each for each in SCENARIOS if each.zones == ("home", "az"))
        backends = measure.place(near, 1)
        self.assertEqual({measure.priority(each, backends) for each in backends}, {"0", "1"})


class Scenarios(unittest.TestCase):
    """The table of scenarios."""

    def test_every_scenario_can_be_run(self) -> None:
        self.assertEqual(len({each.key for each in SCENARIOS}), len(SCENARIOS), "keys differ")
        for scenario in SCENARIOS:
            with self.subTest(scenario.key):
                self.assertLessEqual(len(scenario.speeds), len(scenario.weights), "every backend has a weight")
                self.assertTrue(set(scenario.zones) <= set(ZONES), "every zone has a link")
                known = spans(60)
                self.assertTrue(scenario.judged in known and scenario.event in {*known, ""}, "spans are known")
                for moment, command in scenario.events(60):
                    self.assertTrue(0 <= moment <= 60 and command.startswith("home-"), command)


class Bounds(unittest.TestCase):
    """What a bound says of several rounds."""

    def test_a_bound_is_judged_by_the_median_of_the_ratios_within_rounds(self) -> None:
        both = results(*(record(OURS, seed, p99=p99) for seed, p99 in [(1, 50.0), (2, 70.0), (3, 200.0)]),
                       *(record(LC, seed, p99=100.0) for seed in (1, 2, 3)))
        text, held = ratio("p99", 0.75, LC).judge(both.rounds("A2")) or ("", False)
        self.assertTrue(held, "one bad round of three does not decide")
        self.assertEqual(text, "p99 by that of least_conn 0.70 (at most 0.75, 0.50–2.00 over the rounds)")

    def test_a_bound_without_its_baseline_is_not_judged(self) -> None:
        self.assertIsNone(ratio("p99", 0.75, LC).judge(results(record(OURS, 1)).rounds("A2")))

    def test_a_lower_limit_counts(self) -> None:
        seen = results(record(OURS, 1, home_0=99, near_0=1)).rounds("A2")
        self.assertFalse((cross(0.08, 0.04).judge(seen) or ("", True))[1])

    def test_deviation_is_of_what_crosses_in_each_second(self) -> None:
        seconds = [{"home-0": 90, "near-0": 10}, {"home-0": 70, "near-0": 30}] * 3
        seen = Round({("A14", OURS): {"seconds": [{"near-0": 1}, *seconds[1:]]}}, "A14")
        figure = Bound("", deviation(1, of_all=0.5).figure, 1).figure(seen)
        self.assertAlmostEqual(figure or 0.0, 0.0489898, 5, "of the seconds after the first sixth")


class Tables(unittest.TestCase):
    """Files of samples, and what is made of them."""

    def test_files_are_merged_and_half_a_line_is_left_out(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, name) for name in "ab"]
            files[0].write_text(json.dumps(record(OURS, 1)) + "\n" + json.dumps(record(OURS, 2))[:50])
            files[1].write_text(json.dumps(record(OURS, 3)) + "\n")
            merged = tables.read(files)
        self.assertEqual([merged.has("A2", OURS, seed) for seed in (1, 2, 3)], [True, False, True])

    def test_a_cell_has_the_median_and_a_table_only_what_its_scenario_has(self) -> None:
        scenario = next(each for each in SCENARIOS if each.key == "A2")
        text = tables.table(scenario, results(*(record(OURS, seed, p99=60.0 + seed) for seed in (1, 2, 3))), [OURS])
        self.assertIn("| dislocate-latency | 10.0 | 62 (61–63) | 200 | 0.000% |", text)
        self.assertNotIn("event", text, "nothing happens there")

    def test_a_peer_that_is_better_is_named(self) -> None:
        seen = results(record(OURS, 1, p99=100.0), record("haproxy-leastconn", 1, p99=90.0, errors=1),
                       record("envoy-least_request", 1, p99=99.0))
        text = tables.beside_peers(seen)
        self.assertIn("90 haproxy-leastconn | 1.11 | 0.000% | 0.000% envoy-least_request | **behind in p99**", text)


if __name__ == "__main__":
    unittest.main()
