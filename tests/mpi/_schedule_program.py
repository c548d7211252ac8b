"""Deal numbered items with costs: ``_schedule_program.py ITEMS [dedicated] [slow=RANK]``. Rank 0 prints who did what, in order, as JSON."""

from __future__ import annotations

import json
import sys
import time

from hpc_galaxy import schedule
from hpc_galaxy.schedule import deal
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import detect, guard


def main(items: int, *options: str) -> None:
    world = detect()
    if "dedicated" in options:
        schedule.DEALING_ALONGSIDE = 1
    slow = {int(option.removeprefix("slow=")) for option in options if option.startswith("slow=")}
    watch = Stopwatch()
    with guard(world):
        # Only rank 0 knows the work; another rank's list must not matter.
        numbers = list(range(items)) if world.is_root else []
        taken = []
        for number in deal(world, "test", "items", numbers, watch, costs=[number % 7 for number in numbers]):
            time.sleep(0.05 if world.rank in slow else 0.002)
            watch.count("things")
            taken.append(number)
        gathered = world.gather(taken)
        world.say(f"TAKEN {json.dumps(gathered)} THREADS {world.threads}")


main(int(sys.argv[1]), *sys.argv[2:])
