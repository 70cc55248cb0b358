"""The scenarios: what is put on whom, what happens when, and what has to come of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bounds import HOME_ONLY, LC, Bound, cross, deviation, errors, flips, lost, ratio, share, value

MEAN_SECONDS = 0.020
WORKERS = 4
HETERO = [1, 1, 1, 1, 2, 2, 2, 4, 4, 0.5]
# Twice the speeds, which makes whole numbers; and the wrong way round.
WEIGHTS = [2, 2, 2, 2, 4, 4, 4, 8, 8, 1]
INVERTED = [4, 4, 4, 4, 2, 2, 2, 1, 1, 8]
# The work that the scenarios were thought out with. Connections stay, so the machine can do the requests.
SHORT = ["--mean-ms", "5"]
LONG = "1.3:20:3000"
# The mean of the cut Pareto distribution above.
LONG_MEAN = 67.3
# One-way delays to the zones in milliseconds, in order of distance.
ZONES = {"home": 0.25, "az": 0.6, "near": 10.0, "far": 40.0}
THREE = ("home", "near", "far")

Events = Callable[[float], list[tuple[float, str]]]


@dataclass(frozen=True)
class Scenario:
    """One scenario. Times are parts of a run; rates are parts of what the (home) backends can do."""

    key: str
    title: str
    rates: Sequence[tuple[float, float]]
    # What backends are told, and when, in seconds; by the length of the run.
    events: Events = lambda seconds: []
    bounds: Sequence[Bound] = ()
    speeds: Sequence[float] = (1.0,) * 10
    weights: Sequence[int] = (1,) * 10
    # Empty where everything is on one machine, without links.
    zones: Sequence[str] = ()
    # What the other zones' own clients take of their backends.
    others: float = 0.5
    timeout: float = 5.0
    long: bool = False
    # Further options of the load, and the mean work in seconds that these make.
    work: Sequence[str] = ()
    mean: float = MEAN_SECONDS
    # The span that tells what an event does, if there is one.
    event: str = ""
    # The span by which the policies are compared.
    judged: str = "counted"
    # Whether the p99 is to be half of that of every peer.
    twice: bool = False
    # Whether only the home zone is measured as well.
    strict: bool = False
    # What of the design's bound is not checked here, and where it is.
    elsewhere: str = ""

    def capacity(self) -> float:
        """Connections a second that the backends of a zone can serve."""
        return sum(self.speeds) * WORKERS / self.mean / (LONG_MEAN if self.long else 1)

    def length(self, seconds: float) -> float:
        """Long connections need longer to find their places."""
        return seconds * 2 if self.long else seconds


def spans(seconds: float) -> dict[str, tuple[float, float]]:
    """The parts of a run that are summed up, from and to."""
    third, idle_over = seconds / 3, seconds * 3 / 4
    return {
        "counted": (seconds / 6, seconds),
        "before": (seconds / 6, third),
        "event": (third, third + 5),
        "later": (third + 2, third + 7),
        "after": (third, seconds),
        "second event": (2 * third, 2 * third + 5),
        "returned": (2 * third + 5, seconds),
        "settled": (2 * third + 10, seconds),
        "last": (idle_over, idle_over + 5),
        "steady": (idle_over + 5, seconds),
    }


def at(part: float, *commands: str) -> Events:
    return lambda seconds: [(seconds * part, command) for command in commands]


def stalls(seconds: float) -> list[tuple[float, str]]:
    first = [(moment, "home-0 stall 500") for moment in steps(2, seconds, 5)]
    return first + [(moment, "home-1 stall 300") for moment in steps(3, seconds, 7)]


def steps(first: float, end: float, step: float) -> list[float]:
    return [first + index * step for index in range(int((end - first) / step) + 1)]


def antagonists(seconds: float) -> list[tuple[float, str]]:
    """Each backend by itself: normal for 8 s, at 0.3 for 2 s, both exponential."""
    draw, found = random.Random(6), []
    for index in range(10):
        moment = draw.expovariate(1 / 8)
        while moment < seconds:
            slow = draw.expovariate(1 / 2)
            found += [(moment, f"home-{index} speed 0.3"), (moment + slow, f"home-{index} speed 1")]
            moment += slow + draw.expovariate(1 / 8)
    return [(moment, command) for moment, command in found if moment < seconds]


def swap(seconds: float) -> list[tuple[float, str]]:
    halves = [(index, 1.0 if index < 5 else 0.5) for index in range(10)]
    return [(seconds / 2, f"home-{index} speed {speed}") for index, speed in halves]


def outage(seconds: float) -> list[tuple[float, str]]:
    return [(seconds / 3, "home-* refuse"), (seconds * 2 / 3, "home-* heal")]


def joiner(seconds: float) -> list[tuple[float, str]]:
    return [(0.0, "home-9 refuse"), (seconds / 3, "home-9 ramp 0.1 20"), (seconds / 3, "home-9 heal")]


def zoned(key: str, load: float, bounds: Sequence[Bound], **more) -> Scenario:
    title = f"three zones, home at {load:.0%}"
    return Scenario(key, title, [(0, load)], bounds=bounds, zones=THREE, speeds=[1.0] * 6, twice=True, **more)


def spilling(key: str, load: float, least: float, most: float) -> Scenario:
    of_all = load / (load + 1.0)
    # To backends that are four times slower, four seconds are what the design calls one.
    steady = [deviation(0.02, of_all), deviation(0.02, of_all, length=4)]
    bounds = [lost(0), cross(most, least, of_all=of_all), *steady, share("far", 0.005, of_all=of_all),
              ratio("p99", 0.5, LC)]
    return zoned(key, load, bounds, elsewhere="mean by the selfish oracle")


# In the order in which they are worth having if there is no time for all.
SCENARIOS = [
    Scenario("A4", "one backend ten times slower", [(0, 0.65)], at(1 / 3, "home-0 speed 0.1"),
             [ratio("p99", 0.75, LC, "event"), ratio("p99", 1.15, "before", "event"),
              share("home-0", 0.02, "later")], event="event", judged="after", twice=True),
    Scenario("A18", "long connections, unequal machines", [(0, 0.6)], bounds=[ratio("p99", 0.35, LC)], speeds=HETERO,
             long=True, twice=True),
    Scenario("A18b", "long connections, one backend four times slower", [(0, 0.55)], at(1 / 3, "home-0 speed 0.25"),
             [ratio("p99", 0.5, LC, "after")], long=True, event="event", judged="after"),
    Scenario("A18c", "long connections that are mostly idle (5 ms of work), unequal machines", [(0, 0.6)],
             bounds=[ratio("p99", 0.35, LC)], speeds=HETERO, long=True, twice=True, work=SHORT, mean=0.005),
    Scenario("A18d", "long connections that are mostly idle, one backend four times slower", [(0, 0.55)],
             at(1 / 3, "home-0 speed 0.25"), [ratio("p99", 0.5, LC, "after")], long=True, event="event", judged="after",
             work=SHORT, mean=0.005),
    spilling("A14", 1.1, 0.04, 0.08),
    spilling("A14b", 1.4, 0.16, 0.20),
    Scenario("A2", "unequal machines, 70 %", [(0, 0.7)], bounds=[ratio("p99", 0.75, LC), lost(0)], speeds=HETERO,
             elsewhere="p99 by the oracle"),
    Scenario("A8", "one backend never answers", [(0, 0.65)], at(1 / 3, "home-0 silent"),
             [errors(0.0003, "after"), lost(50, "event")], timeout=2, event="event", judged="after"),
    Scenario("A7", "one backend resets", [(0, 0.65)], at(1 / 3, "home-0 reset"),
             [errors(0.0005, "after"), errors(0.002, "event")], timeout=2, event="event", judged="after"),
    zoned("A12", 0.5, [cross(0.005), ratio("p99", 1.1, HOME_ONLY)], strict=True),
    zoned("A13", 0.95, [cross(0.02), ratio("p99", 1.2, HOME_ONLY)], strict=True),
    Scenario("A15", "three zones, home 60 to 140 to 60 %", [(0, 0.6), (1 / 3, 1.4), (2 / 3, 0.6)],
             bounds=[lost(0), value("p99", 400, "event"), cross(0.01, span="returned"), flips(2)], zones=THREE,
             speeds=[1.0] * 6, event="event", twice=True),
    Scenario("A16", "three zones, home refuses for a third", [(0, 0.6)], outage,
             [errors(0.001), cross(0.05, span="settled")], zones=THREE, speeds=[1.0] * 6, timeout=2, event="event",
             twice=True),
    Scenario("A1", "equal machines, 75 %", [(0, 0.75)],
             bounds=[ratio("p50", 1.1, LC), ratio("p99", 1.1, LC), ratio("p999", 1.15, LC)]),
    Scenario("A3", "unequal machines, weights as they should be", [(0, 0.7)], bounds=[ratio("p99", 0.8, LC)],
             speeds=HETERO, weights=WEIGHTS),
    Scenario("A3b", "unequal machines, weights the wrong way round", [(0, 0.7)], bounds=[ratio("p99", 0.4, LC)],
             speeds=HETERO, weights=INVERTED),
    Scenario("A17", "a second zone 0.7 ms away, both at 70 %", [(0, 0.7)],
             bounds=[cross(0.03), ratio("p50", 1.05, HOME_ONLY)], zones=("home", "az"), others=0.7,
             speeds=[1.0] * 6, strict=True),
    Scenario("A5", "stalls", [(0, 0.65)], stalls,
             [ratio("p999", 1.1, LC), ratio("p99", 1.15, "before", key="A4", name="without stalls")]),
    Scenario("A6", "antagonists", [(0, 0.6)], antagonists, [ratio("p99", 0.85, LC)], elsewhere="p99 by the oracle"),
    Scenario("A9", "one backend refuses", [(0, 0.65)], at(1 / 3, "home-0 refuse"),
             [lost(0, "after"), ratio("p99", 1.1, "before", "after")], timeout=2, event="event", judged="after"),
    Scenario("A10", "a cold backend joins", [(0, 0.7)], joiner, [ratio("p99", 1.15, "before", "event")], event="event",
             judged="after", elsewhere="100 proxies"),
    zoned("A12b", 0.85, [cross(0.005), ratio("p99", 1.1, HOME_ONLY)], strict=True),
    Scenario("A20", "speeds change places while idle", [(0, 0.7), (1 / 4, 0.002), (3 / 4, 0.7)], swap,
             [ratio("p99", 1.1, LC, "last"), ratio("p99", 0.95, LC, "steady")], speeds=[0.5] * 5 + [1.0] * 5,
             event="last"),
    Scenario("A1b", "equal machines, 70 %, two requests of a hundred take 240 ms", [(0, 0.7)],
             bounds=[ratio("p50", 1.1, LC), ratio("p99", 1.1, LC), ratio("p999", 1.15, LC)],
             work=["--mean-ms", "16", "--rare", "0.02:240"], mean=0.02048),
]
