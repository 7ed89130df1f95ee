"""Runs the sides of a row in alternation, so that all meet the same noise."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import psutil

from benchmarks.rows import Command, Row

ROOT = Path(__file__).parent.parent
# Where both clients look without being told.
WELL_KNOWN_PORTS = (41343, 52993, 16141, 39414, 22931)
_NPM_PACKAGE = {
    "private": True,
    "dependencies": {"@lmstudio/sdk": "2.0.0"},
    "overrides": {"@lmstudio/lms-isomorphic": "0.4.6"},
}

# Of one side, each metric with one value for each round.
Metrics = dict[str, list[float]]


@dataclass(frozen=True)
class Bench:
    """What the programs are run against."""

    address: str
    node_modules: Path | None
    server: psutil.Process

    def run(self, row: Row, rounds: int) -> dict[str, Metrics]:
        """The metrics of each side. A first round, which warms the caches, does not count."""
        sides = {side: command for side, command in row.sides.items() if self._can_run(command)}
        results: dict[str, Metrics] = {side: {} for side in sides}
        for number in range(rounds + 1):
            for side, command in sides.items():
                for metric, value in self.measure(command).items():
                    if number:
                        results[side].setdefault(metric, []).append(value)
        return results

    def measure(self, command: Command) -> Mapping[str, float]:
        """What a program prints, what its process took, and the server's share of a core."""
        filled = [
            part.format(address=self.address, node_modules=self.node_modules) for part in command
        ]
        server, children = _cpu(self.server), _children_cpu()
        start = time.perf_counter()
        done = subprocess.run(
            filled, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=300
        )
        wall = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"{' '.join(filled)} failed:\n{done.stderr}")
        printed: dict[str, float] = json.loads(done.stdout) if done.stdout else {}
        return printed | {
            "process_wall_s": wall,
            "process_cpu_s": _children_cpu() - children,
            "server_share": (_cpu(self.server) - server) / printed.get("wall_s", wall),
        }

    def _can_run(self, command: Command) -> bool:
        return self.node_modules is not None or "{node_modules}" not in command


@contextmanager
def bench() -> Iterator[Bench]:
    """The replay server, and what the JavaScript client needs if Node is there."""
    ports = [argument for port in WELL_KNOWN_PORTS for argument in ("--port", str(port))]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.replay_server", *ports],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        if not port:
            raise RuntimeError("the replay server did not start")
        yield Bench(f"127.0.0.1:{port}", _node_modules(), psutil.Process(server.pid))


def _environment() -> dict[str, str]:
    # A running LM Studio must not be found in place of the replay server.
    return os.environ | {"LMS_API_SERVER_INFO_PATH": os.devnull}


def _node_modules() -> Path | None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("Node and npm are not installed: no figures of @lmstudio/sdk.\n")
        return None
    folder = Path(platformdirs.user_cache_dir("lmstudio_async")) / "benchmarks"
    if not (folder / "node_modules" / "@lmstudio").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(json.dumps(_NPM_PACKAGE))
        install: Any = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
        if subprocess.run(install, cwd=folder).returncode:
            print("npm could not install @lmstudio/sdk: no figures of it.\n")
            return None
    return folder


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
