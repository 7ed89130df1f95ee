"""The whole client against a model of the server, in virtual time, with everything going wrong.

    clock         virtual time on asyncio and on trio; finds hangs
    network       WebSockets in memory, the only part of the client that is replaced
    server        a model of LM Studio
    faults        what goes wrong, drawn from a seed or at a chosen frame
    program       random programs of users, and what they note in their ledgers
    cancellation  cancelling at a chosen await
    invariants    what must be true in the end
    world         all of these put together for one run
    seeds         runs by the thousand: `run_seeds`

`python -m tests.simulation --help` runs more of them, or one again.
"""

from tests.simulation.seeds import SimulationReport, run_seed, run_seeds

__all__ = ["SimulationReport", "run_seed", "run_seeds"]
