"""How long `import lmstudio_async` takes, against `import lmstudio`.

Each round starts one fresh interpreter for each case, in turn, so that both meet the same noise.
The last case is what a program pays that goes on to open a client.
"""

import argparse
import statistics
import subprocess
import sys

CASES = {
    "import lmstudio_async": "import lmstudio_async",
    "lmstudio_async.Client": "import lmstudio_async; lmstudio_async.Client",
    "import lmstudio": "import lmstudio",
}
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds(statement: str) -> float:
    program = [sys.executable, "-c", TIMED.format(statement)]
    return float(subprocess.run(program, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for round_number in range(rounds + 1):
        for name, statement in CASES.items():
            measured = seconds(statement)
            if round_number:  # the first one warms the caches
                times[name].append(measured)
    yardstick = statistics.median(times["import lmstudio"])
    print(f"median of {rounds} rounds, Python {sys.version.split()[0]}")
    for name, measured_times in times.items():
        median = statistics.median(measured_times)
        spread = f"{min(measured_times) * 1e3:.1f} to {max(measured_times) * 1e3:.1f}"
        print(f"{name:<22} {median * 1e3:7.1f} ms  ({spread})  {median / yardstick:6.1%}")


if __name__ == "__main__":
    main()
