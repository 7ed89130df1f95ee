"""What a soak has found, as one table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.soak.journal import Journal
from tests.soak.usage import Usage


@dataclass
class Part:
    """One column: a part of the soak. `runs` are its seeds or tests."""

    title: str
    runs: int
    calls: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    leaks: int = 0
    hangs: int = 0
    bugs: int = 0


def print_outcomes(journal: Journal) -> None:
    """How the calls on the real engine ended."""
    names = sorted({name for name, _ in journal.calls})
    for name in names:
        outcomes = Counter({o: count for (n, o), count in journal.calls.items() if n == name})
        told = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
        print(f"{name:<20}{told}")


def print_table(parts: Sequence[Part], usages: Sequence[Usage]) -> None:
    """The parts side by side, then what the real processes held before and after."""
    faults = sorted({kind for part in parts for kind in part.faults})
    rows: list[tuple[str, list[int]]] = [
        ("seeds or tests", [part.runs for part in parts]),
        ("calls", [part.calls for part in parts]),
        *((f"  {kind}", [part.faults[kind] for part in parts]) for kind in faults),
        ("leaks", [part.leaks for part in parts]),
        ("hangs", [part.hangs for part in parts]),
        ("other bugs", [part.bugs for part in parts]),
    ]
    print(" " * 26 + "".join(f"{part.title:>14}" for part in parts))
    for name, figures in rows:
        print(f"{name:<26}" + "".join(f"{figure:>14,}" for figure in figures))
    if usages:
        before, after = usages[0], usages[-1]
        print(f"\n{'':<26}{'warmed up':>14}{'at the end':>14}")
        for process in ("client", "server"):
            for what, unit in (("bytes", 1e6), ("descriptors", 1)):
                old, new = (getattr(usage, f"{process}_{what}") / unit for usage in (before, after))
                name, digits = (f"{process}, MB", 1) if unit > 1 else (f"{process}, descriptors", 0)
                print(f"{name:<26}{old:>14.{digits}f}{new:>14.{digits}f}")
