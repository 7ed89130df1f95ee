"""What a soak has found, as one table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.soak.journal import Journal
from tests.soak.usage import Usage


@dataclass
class Part:
    """One column. `runs` are seeds or tests; `found` describes all that is wrong."""

    title: str
    runs: int = 0
    calls: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    leaks: int = 0
    hangs: int = 0
    found: list[str] = field(default_factory=list)


def print_outcomes(journal: Journal) -> None:
    """How the calls on the real engine ended."""
    for called in sorted({name for name, _ in journal.calls}):
        outcomes = Counter({o: n for (name, o), n in journal.calls.items() if name == called})
        told = ", ".join(f"{number:,} {outcome}" for outcome, number in outcomes.most_common())
        print(f"  {called:<20}{told}")


def print_table(parts: Sequence[Part], usages: Sequence[Usage]) -> None:
    """The parts side by side, then what the real processes held before and after."""
    faults = sorted({kind for part in parts for kind in part.faults})
    rows: list[tuple[str, list[int]]] = [
        ("runs", [part.runs for part in parts]),
        ("calls", [part.calls for part in parts]),
        ("faults", [part.faults.total() for part in parts]),
        *((f"  {kind}", [part.faults[kind] for part in parts]) for kind in faults),
        ("leaks", [part.leaks for part in parts]),
        ("hangs", [part.hangs for part in parts]),
        ("failures in all", [len(part.found) for part in parts]),
    ]
    print(f"\n{'':<26}" + "".join(f"{part.title:>14}" for part in parts))
    for name, figures in rows:
        print(f"{name:<26}" + "".join(f"{figure:>14,}" for figure in figures))
    if not usages:
        return
    before, after = usages[0], usages[-1]
    print(f"\n{'real engine':<26}{'warmed up':>14}{'at the end':>14}")
    for name, old, new in (
        ("client, MB", before.client_bytes / 1e6, after.client_bytes / 1e6),
        ("client, blocks", before.client_blocks, after.client_blocks),
        ("server, MB", before.server_bytes / 1e6, after.server_bytes / 1e6),
        ("client, descriptors", before.client_descriptors, after.client_descriptors),
        ("server, descriptors", before.server_descriptors, after.server_descriptors),
    ):
        print(f"{name:<26}{old:>14,.6g}{new:>14,.6g}")
