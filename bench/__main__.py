"""`python -m bench [PART...] [--quick] [--runs N] [--peers-only]`: measure, print, and write bench/RESULTS.md."""

import argparse
import sys
import time
from collections.abc import Callable

from bench import end_to_end, latency, modules, receive, scale, send_series
from bench.results import Report, markdown, write
from bench.size import Size
from bench.workplace import alone

PARTS: dict[str, Callable[[Size], Report]] = {
    "receive": receive.measure,
    "send": send_series.measure,
    "latency": latency.measure,
    "scale": scale.measure,
    "end_to_end": end_to_end.measure,
    "modules": modules.measure,
}


def main(arguments: list[str]) -> int:
    """Run the parts named; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", default=["all"], metavar="PART", help=f"{', '.join(PARTS)} or all")
    parser.add_argument("--quick", action="store_true", help="a tenth of the data, one run, RESULTS.md left as it is")
    parser.add_argument("--runs", type=int, default=3, help="runs of each measurement (default: 3)")
    parser.add_argument("--peers-only", action="store_true", help="measure the peers, not Mercure; RESULTS.md stays")
    options = parser.parse_args(arguments)
    names = list(PARTS) if "all" in options.parts else options.parts
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]}")
    size = Size(runs=1 if options.quick else options.runs, quick=options.quick, peers_only=options.peers_only)
    reports = []
    with alone():
        for name in names:
            started = time.monotonic()
            report = PARTS[name](size)
            print(f"{name} took {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
            command = f"python -m bench {name} --runs {size.runs}"
            print(markdown(report, command), flush=True)
            if not (size.quick or size.peers_only):
                write(report, command)
            reports.append(report)
    return 0 if all(goal.is_met for report in reports for goal in report.goals) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
