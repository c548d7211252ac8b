"""How near to the ideal end ranks that share bricks of very different cost.

Real ranks: 200 items whose costs are spread over a factor of 30, on 2 to 16 ranks, dealt out by `hpc_galaxy.schedule.deal`,
against equal shares fixed beforehand. An item sleeps for its cost, so that more ranks than cores can be tried. Simulated
ranks: the same policy for 3,200 ranks and 200,000 bricks, with the time of a request measured here; the same model predicts
the runs on real ranks, which shows whether it can be believed.
"""

from __future__ import annotations

import heapq
import json
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
from common import begin

from hpc_galaxy import schedule
from hpc_galaxy.bench.measuring import Log
from hpc_galaxy.launch import said_by_ranks
from hpc_galaxy.schedule import POLL_SECONDS, deal
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import detect, guard

ITEMS, SPREAD = 200, 30.0
SLOW = 3.0  # how many times slower a slow rank is
QUICK = 50e-6  # seconds a request, for a dealer with a core of its own: an assumption
PERFECT_ESTIMATES, ROUGH_ESTIMATES = 0.0, 0.3  # scatter of the true cost about the estimate, natural logarithm


def draw_costs(count: int, total: float) -> np.ndarray:
    """Return costs spread evenly in their logarithm over `SPREAD`, seconds, which sum to `total`."""
    costs = SPREAD ** np.random.default_rng(1).uniform(0, 1, count)
    return costs * total / costs.sum()


def ideal(costs: np.ndarray, speeds: np.ndarray) -> float:
    """Return a lower limit of the makespan: all ranks busy to the end, and the heaviest item on the fastest."""
    return max(costs.sum() / speeds.sum(), costs.max() / speeds.max())


@dataclass(frozen=True)
class Dealer:
    """Seconds that a request takes the dealer, and seconds that it is on its way, there and back."""

    service: float
    latency: float


def measure_dealer(quick: bool) -> Dealer:
    """Measure both with one rank that asks, without and with the dealer's naps."""
    count = 2_000 if quick else 10_000
    said = [said_by_ranks(2, [__file__, "requests", str(count), str(poll)]) for poll in (0.0, POLL_SECONDS)]
    awake, napping = (float(one.splitlines()[-1]) for one in said)
    print(f"a request takes the dealer {1e6 * awake:.0f} us at most; with its naps an answer takes {1e3 * napping:.2f} ms")
    return Dealer(awake, napping - awake)


def simulate(estimates: np.ndarray, costs: np.ndarray, speeds: np.ndarray, dealer: Dealer) -> float:
    """Return the makespan of dealing: a rank's request waits for the dealer, who answers one after the other."""
    free = [(0.0, rank) for rank in range(len(speeds))]
    answered = end = 0.0
    for cost in costs[np.argsort(-estimates, kind="stable")]:
        now, rank = heapq.heappop(free)
        answered = max(answered, now + dealer.latency) + dealer.service
        done = answered + cost / speeds[rank]
        end = max(end, done)
        heapq.heappush(free, (done, rank))
    return end


def fixed_shares(costs: np.ndarray, speeds: np.ndarray) -> float:
    """Return the makespan of equal shares fixed beforehand, every n-th brick to a rank."""
    return max(costs[rank :: len(speeds)].sum() / speed for rank, speed in enumerate(speeds))


def run_inside(kind: str, total: float, slow: bool) -> None:
    """Be one rank of a measured run; rank 0 prints the makespan."""
    world = detect()
    with guard(world):
        costs = draw_costs(ITEMS, total)
        pace = SLOW if slow and world.rank == world.size - 1 else 1.0
        numbers = list(range(ITEMS))
        world.barrier()
        start = time.perf_counter()
        mine = deal(world, "bench", "items", numbers, Stopwatch(), list(costs)) if kind == "dealt" else world.share(numbers)
        for number in mine:
            time.sleep(costs[number] * pace)
        busy = max(world.allgather(time.perf_counter() - start))
        world.say(json.dumps(busy))


def requests_inside(count: int, poll: float) -> None:
    """Be one rank of a run of items that take no time, where rank 0 only deals; it prints the seconds a request."""
    schedule.DEALING_ALONGSIDE, schedule.POLL_SECONDS = 1, poll
    world = detect()
    with guard(world):
        start = time.perf_counter()
        for _ in deal(world, "bench", "items", range(1, count + 1) if world.is_root else [], Stopwatch()):
            pass
        world.say(json.dumps((time.perf_counter() - start) / count))


def measure(ranks: int, kind: str, total: float, slow: bool) -> float:
    """Return the makespan of a run on real ranks, seconds."""
    return float(json.loads(said_by_ranks(ranks, [__file__, "inside", kind, str(total), str(int(slow))]).splitlines()[-1]))


def real_ranks(log: Log, quick: bool, dealer: Dealer) -> None:
    """Compare dealing with fixed shares and with the model, on real ranks."""
    print(f"\n{ITEMS} items, costs spread over {SPREAD:.0f}x: makespan over the ideal one")
    print("ranks  slow rank   dealt   predicted   fixed shares   ideal, s")
    worst = 0.0
    for ranks in (2, 16) if quick else (2, 4, 8, 16):
        for slow in (False, True):
            total = 1.5 * ranks if quick else 5.0 * ranks
            speeds = np.array([1.0] * (ranks - 1) + [1 / SLOW if slow else 1.0])
            costs = draw_costs(ITEMS, total)
            best = ideal(costs, speeds)
            dealt, fixed = (measure(ranks, kind, total, slow) / best for kind in ("dealt", "fixed"))
            model = simulate(costs, costs, speeds, dealer) / best
            print(f"{ranks:5d}  {'one, 3x' if slow else '-':>9}   {dealt:5.3f}   {model:9.3f}   {fixed:12.3f}   {best:8.2f}", flush=True)
            worst = max(worst, dealt)
    log.ratio("schedule_over_ideal_2_to_16_ranks", worst, "<= 1.1")


def simulated_ranks(log: Log, dealer: Dealer) -> None:
    """Compare dealing with fixed shares on more ranks than there are here."""
    ranks, bricks = 3200, 200_000
    estimates = draw_costs(bricks, 1.5 * bricks)
    print(f"\nSimulated: {ranks:,} ranks, {bricks:,} bricks of {estimates.min():.2f} to {estimates.max():.1f} s, 1.5 s on average")
    print(f"true cost / estimate   slow ranks   dealt   with {1e6 * QUICK:.0f} us a request   fixed shares (makespan over the ideal one)")
    fast = replace(dealer, service=QUICK)
    worst = 0.0
    rng = np.random.default_rng(2)
    for scatter in (PERFECT_ESTIMATES, ROUGH_ESTIMATES):
        for slow in (0.0, 0.01):
            costs = estimates * np.exp(rng.normal(0, scatter, bricks))
            speeds = np.where(rng.random(ranks) < slow, 1 / SLOW, 1.0)
            best = ideal(costs, speeds)
            dealt, quicker = (simulate(estimates, costs, speeds, one) / best for one in (dealer, fast))
            fixed = fixed_shares(costs, speeds) / best
            print(f"{f'scatter {scatter:.0%}':>20}   {slow:10.0%}   {dealt:5.3f}   {quicker:20.3f}   {fixed:12.3f}", flush=True)
            worst = max(worst, dealt)
    log.ratio("schedule_over_ideal_3200_ranks_simulated", worst, "<= 1.1")


def main() -> None:
    """Measure a request, run on real ranks, simulate thousands."""
    quick, log = begin(__doc__)
    dealer = measure_dealer(quick)
    real_ranks(log, quick, dealer)
    simulated_ranks(log, dealer)


if __name__ == "__main__":
    if sys.argv[1:2] == ["inside"]:
        run_inside(sys.argv[2], float(sys.argv[3]), bool(int(sys.argv[4])))
    elif sys.argv[1:2] == ["requests"]:
        requests_inside(int(sys.argv[2]), float(sys.argv[3]))
    else:
        main()
