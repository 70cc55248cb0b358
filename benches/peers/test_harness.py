"""Tests of the harness that need no proxy: `python3 -m unittest discover --start-directory benches/peers`."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import tempfile
import unittest
from pathlib import Path

import goals
import report
import syscalls
import udp
from loads import LOADS
from peers import CONFIG, Address, Setup, render
from processes import PROC, cpu_seconds, family_of, running

SETUP = Setup(Path("/nowhere"), Address("127.0.0.1", 4000), threads=2, descriptors=20_000)
BACKENDS = [Address("127.0.0.2", 5000), Address("127.0.0.3", 5001)]


class Templates(unittest.TestCase):
    """The peers' configurations."""

    def test_every_template_is_filled_completely_and_names_every_backend(self) -> None:
        for template in sorted(CONFIG.iterdir()):
            filled = render(template.read_text(), SETUP, BACKENDS)
            with self.subTest(template.name):
                self.assertNotRegex(filled, "@[A-Z_]+@", "a value was left out")
                if template.name not in ("envoy.yaml.in", "envoy-udp.yaml.in"):
                    self.assertIn("127.0.0.2", filled, "the first backend is missing")
                    self.assertIn("5001", filled, "the second backend is missing")

    def test_what_ends_flows_is_there_for_brief_ones_only(self) -> None:
        for name, ending, lasting in (
            ("dislocate-udp.toml.in", "replies = 1", 'idle_timeout = "1h"'),
            ("nginx-udp.conf.in", "proxy_responses 1;", "proxy_timeout 1h;"),
            ("envoy-udp.yaml.in", "idle_timeout: 0.1s", "idle_timeout: 3600s"),
        ):
            for brief, there, away in ((True, ending, lasting), (False, lasting, ending)):
                setup = dataclasses.replace(SETUP, protocol="udp", brief=brief)
                filled = render((CONFIG / name).read_text(), setup, BACKENDS)
                with self.subTest(name, brief=brief):
                    self.assertIn(there, filled)
                    self.assertNotIn(away, filled)


class Figures(unittest.TestCase):
    """What becomes of samples."""

    def setUp(self) -> None:
        self.results = report.Results()
        self.load = next(load for load in LOADS if load.name == "requests")
        sample = dict.fromkeys((name for _, name in self.load.columns), 1.0)
        for turn, (ours, theirs) in enumerate([(1.0, 2.0), (3.0, 4.0), (9.0, 9.0)]):
            self.results.add("requests", "dislocate", turn, {**sample, "cpu": ours})
            self.results.add("requests", "nginx", turn, {**sample, "cpu": theirs})

    def test_a_ratio_is_taken_within_each_round(self) -> None:
        self.assertEqual(self.results.ratios("requests", "dislocate", "nginx", "cpu"), [0.5, 0.75, 1.0])

    def test_less_than_ten_percent_is_a_tie(self) -> None:
        table = report.table(self.results, self.load, ["nginx", "dislocate"], "dislocate")
        self.assertIn("| **0.75** | tie (1.00) |", table, "CPU differs, the rate does not")

    def test_a_lost_sample_is_shown(self) -> None:
        self.results.lose("requests", "nginx")
        table = report.table(self.results, self.load, ["nginx", "dislocate"], "dislocate")
        self.assertIn("samples lost: 1", table)

    def test_a_page_keeps_what_was_not_measured(self) -> None:
        text = f"# Text\n\n{report.RESULTS}\n"
        before = report.page("", text, {"tcp": "old tcp", "udp": "old udp\n\n| a |"}) + f"\n{report.SCENARIOS}\n\nscenarios\n"
        after = report.page(before, text.replace("Text", "New text"), {"tcp": "new tcp"})
        self.assertEqual(after, before.replace("old tcp", "new tcp").replace("# Text", "# New text"))
        self.assertEqual(report.page(after, text, {}), before.replace("old tcp", "new tcp"))

    def test_a_goal_says_by_how_much_it_was_missed(self) -> None:
        goal = next(goal for goal in goals.GOALS if goal.text.startswith("Request"))
        self.assertEqual(goal.measure(self.results), 0.75)
        self.assertEqual(goal.verdict(0.75), "reached")
        self.assertEqual(dataclasses.replace(goal, limit=0.5).verdict(0.75), "missed by 50%")
        self.assertEqual(dataclasses.replace(goal, limit=0.7).verdict(0.75), "missed by 7%, within the noise")


class Datagrams(unittest.TestCase):
    """What the loads over UDP work out themselves."""

    def test_a_peer_carries_the_last_rate_before_it_loses(self) -> None:
        self.assertAlmostEqual(udp.climb(lambda rate: 5.0 if rate > 15_000 else 0.0), 10_000 * udp.STEP**2)

    def test_one_disturbance_ends_no_climb(self) -> None:
        losses = iter([5.0, 0.0, 5.0, 5.0, 0.0])
        self.assertAlmostEqual(udp.climb(lambda _: next(losses, 5.0)), 10_000 * udp.STEP**2)

    def test_what_the_client_could_not_send_in_time_is_lost(self) -> None:
        seen = {"operations": 90.0, "lost": 2.0}
        self.assertEqual(udp.lost_percent(udp.of_planned(seen, 100)), 10.0)

    def test_the_loss_that_counts_is_a_step_above_the_best_peer(self) -> None:
        results = report.Results()
        goal = next(goal for goal in goals.GOALS if goal.text.startswith("UDP, 64 bytes: % lost"))
        carries = {"nginx": 2, "envoy": 3, "dislocate": 4}
        for name, last in carries.items():
            losses = {f"lost{step}": 0.0 if step <= last else 7.0 + step for step in range(len(udp.STEPS))}
            results.add("udp-rates-64", name, 0, losses)
        self.assertEqual(goal.measure(results), 0.0, "the step above envoy's")
        results.add("udp-rates-64", "envoy", 0, dict.fromkeys((f"lost{step}" for step in range(len(udp.STEPS))), 0.0))
        self.assertIsNone(goal.measure(results), "nothing above the highest step was offered")

    def test_the_direct_path_has_half_the_hops(self) -> None:
        results = report.Results()
        goal = next(goal for goal in goals.GOALS if goal.text.startswith("UDP, 1200 bytes, 1 % load"))
        self.assertIsNone(goal.measure(results), "nothing measured")
        results.add("udp-low-1200", "direct", 0, {"p99": 50.0})
        results.add("udp-low-1200", "dislocate", 0, {"p99": 120.0})
        self.assertEqual(goal.measure(results), 1.2)


class Strace(unittest.TestCase):
    """Its summary."""

    def test_calls_are_read_with_and_without_errors(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            table = Path(directory) / "table"
            table.write_text(STRACE)
            self.assertEqual(syscalls.parse(table), {"recvfrom": 402, "accept4": 3})


class Processes(unittest.TestCase):
    """Starting, accounting and ending."""

    def test_a_family_is_accounted_for_and_ended_as_a_whole(self) -> None:
        program = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BUSY!r}])\n{BUSY}"
        with tempfile.TemporaryDirectory() as directory:
            with running([sys.executable, "-c", program], Path(directory) / "log") as process:
                while len(family_of(process.pid)) < 2 or cpu_seconds(process.pid) == 0:
                    self.assertIsNone(process.poll(), "it ended by itself")
                family = family_of(process.pid)
            self.assertEqual(process.returncode, -signal.SIGTERM, "it was asked, not killed")
        for pid in family:
            with contextlib.suppress(OSError):
                status = (PROC / str(pid) / "status").read_text()
                self.assertIn("State:\tZ", status, "a descendant outlived the block")


BUSY = "import time\nwhile True: time.sleep(0.001)"
STRACE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 15.23    0.000504           1       402           recvfrom
  0.15    0.000005           1         3         2 accept4
------ ----------- ----------- --------- --------- ----------------
100.00    0.003309           1       405         2 total
"""

if __name__ == "__main__":
    unittest.main()
