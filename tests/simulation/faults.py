"""What goes wrong, and how long things take."""

import random
from collections import Counter
from collections.abc import Iterator
from enum import Enum, auto
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tests.simulation.server import Server

Sender = Literal["client", "server"]
KEYS = {"llm": ("llm-a", "llm-b"), "embedding": ("embed-a",)}
NAMES = ("mine", "yours")

# What can keep the client from unloading, or from learning what it has loaded.
NETWORK = {"cut before", "cut after", "silence", "refused", "restart", "unanswered"}


class Fate(Enum):
    """What becomes of a frame. A cut during a frame is one before it: half a frame is none."""

    ARRIVES = auto()
    ARRIVES_TWICE = auto()
    CUT_BEFORE = auto()
    CUT_AFTER = auto()
    SILENCE = auto()


class Calm:
    """Nothing goes wrong. Frames take 1 ms, a step of the server's work 10 ms."""

    ask_for_acks = False

    def __init__(self) -> None:
        self.injected: Counter[str] = Counter()

    def latency(self) -> float:
        return 0.001

    def work(self) -> float:
        return 0.01

    def frame(self, sender: Sender) -> Fate:
        return Fate.ARRIVES

    def connection(self) -> Literal["accepted", "refused", "unanswered"]:
        return "accepted"

    def refuses_unload(self) -> bool:
        return False

    def finishes_load(self, after: Literal["cancel", "loss"]) -> bool:
        """Whether a load goes on that was cancelled, or that has lost its connection."""
        return False

    def tells_of_finished_load(self) -> bool:
        """Whether a load that was finished despite its cancellation says so."""
        return True

    def script(self, server: "Server") -> Iterator[float]:
        """What others do to the server meanwhile."""
        return iter(())

    def end(self) -> None:
        """From now on, nothing goes wrong."""


class CutAt(Calm):
    """Cut the connection at one frame, counted from 1 over all sockets and in both directions."""

    def __init__(self, number: int, fate: Fate, *, loads_go_on: bool = False) -> None:
        super().__init__()
        self.frames = 0
        self._number = number
        self._fate = fate
        self._loads_go_on = loads_go_on

    def frame(self, sender: Sender) -> Fate:
        self.frames += 1
        if self.frames != self._number:
            return Fate.ARRIVES
        self.injected[self._fate.name.lower().replace("_", " ")] += 1
        return self._fate

    def finishes_load(self, after: Literal["cancel", "loss"]) -> bool:
        return self._loads_go_on


class Storm(Calm):
    """Random faults and delays, all drawn from one seed. Some storms are light, some are heavy."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._left = self._random.choice((0, 0, 1, 2, 4, 8))
        self._per_frame = self._random.choice((0.002, 0.01, 0.03))
        self._strangers = self._random.random() < 0.5
        self._slow = self._random.choice((0.1, 0.5, 3.0))
        self._stubborn = self._random.choice((0.0, 0.5))
        self.ask_for_acks = self._random.random() < 0.3

    def latency(self) -> float:
        pick = self._random.random()
        if pick < 0.3:
            return 0.0
        return self._random.expovariate(1 / 0.01 if pick < 0.95 else 1 / 0.7)

    def work(self) -> float:
        return self._random.uniform(0, self._slow)

    def frame(self, sender: Sender) -> Fate:
        if sender == "server" and self._strikes("twice", 0.02):
            return Fate.ARRIVES_TWICE
        if self._strikes("cut before", self._per_frame, network=True):
            return Fate.CUT_BEFORE
        if self._strikes("cut after", self._per_frame, network=True):
            return Fate.CUT_AFTER
        if self._strikes("silence", self._per_frame / 3, network=True):
            return Fate.SILENCE
        return Fate.ARRIVES

    def connection(self) -> Literal["accepted", "refused", "unanswered"]:
        if self._strikes("refused", 0.1, network=True):
            return "refused"
        if self._strikes("unanswered", 0.03, network=True):
            return "unanswered"
        return "accepted"

    def refuses_unload(self) -> bool:
        return self._strikes("unload refused", 0.1, network=True)

    def finishes_load(self, after: Literal["cancel", "loss"]) -> bool:
        return self._strikes(f"load finished after {after}", self._stubborn)

    def tells_of_finished_load(self) -> bool:
        return self._random.random() < 0.8

    def script(self, server: "Server") -> Iterator[float]:
        while self._strangers:
            yield self._random.expovariate(1)
            act = self._random.choice(("evict", "steal", "load", "unload", "restart"))
            namespace = self._random.choice(list(KEYS))
            name = self._random.choice((*KEYS[namespace], *NAMES))
            if act == "restart":
                if self._strikes("restart", 0.2, network=True):
                    server.restart()
            elif act == "load":
                if server.load_for_stranger(namespace, name):
                    self.injected["loaded by another"] += 1
            elif act == "unload":
                if server.unload_of_stranger(name):
                    self.injected["unloaded by another"] += 1
            elif self._random.random() < 0.3 and server.evict(name):
                self.injected["evicted"] += 1
                if act == "steal" and server.load_for_stranger(namespace, name):
                    self.injected["identifier stolen"] += 1

    def end(self) -> None:
        self._strangers = False
        self._left = 0

    def _strikes(self, kind: str, probability: float, *, network: bool = False) -> bool:
        """Draw. Those of the network are limited in number, so that the storm ends some time."""
        if self._random.random() >= probability or (network and not self._left):
            return False
        self._left -= network
        self.injected[kind] += 1
        return True
