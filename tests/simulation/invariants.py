"""What must be true when a client has been closed, whatever has happened."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.simulation.faults import NETWORK
from tests.simulation.server import Instance

if TYPE_CHECKING:
    from lmstudio_async.client import _Session
    from tests.simulation.program import Ledger
    from tests.simulation.server import Server
    from tests.simulation.world import World


def check_client(session: "_Session") -> Iterator[str]:
    """The client's own books are empty."""
    lifecycle, pool = session.lifecycle, session.pool
    for instance in lifecycle._instances.values():
        yield f"record left of {instance.info.identifier!r} with {instance.leases} leases"
    if lifecycle._loads or lifecycle._running:
        yield f"loads left: {lifecycle._loads} {lifecycle._running}"
    if pool._connecting._attempts:
        yield f"still connecting: {pool._connecting._attempts}"
    for name, connection in pool._connections.items():
        if not connection._multiplexer.idle:
            yield f"/{name}: calls or channels left"


def check_idle(session: "_Session", ledger: "Ledger", server: "Server") -> Iterator[str]:
    """While the client is open: what no scope holds, it does not hold either."""
    for reference, instance in session.lifecycle._instances.items():
        if not ledger.held[reference]:
            yield f"{instance.info.identifier!r} is held for nobody"
    if session.lifecycle._running or session.lifecycle._recoveries:
        yield "loads or recoveries do not end"
    if running := server.predictions[ledger.client]:
        yield f"{running} predictions still run"


def check_server(world: "World") -> Iterator[str]:
    """Nothing of ours is left over there, and nothing of others was touched."""
    server = world.server
    kept = {reference for ledger in world.ledgers.values() for reference in ledger.kept}
    yield from server.violations
    for socket in world.network.open:
        yield f"{socket.name} was left open"
    left = [
        instance
        for instance in server.loaded.values()
        if instance.channel is not None and instance.info.instance_reference not in kept
    ]
    unexcused = [instance for instance in left if not _excused(world, instance)]
    # Where the server refused to unload, or could not be reached, somebody was told of it.
    may_fail = bool(world.faults.injected.keys() & (NETWORK | {"unload refused"}))
    if len(unexcused) > (world.reported if may_fail else 0):
        names = [f"{i.info.identifier} ({i.info.instance_reference})" for i in unexcused]
        yield f"left loaded: {', '.join(names)}; {world.reported} of them reported"


def _excused(world: "World", instance: Instance) -> bool:
    """What the client could not know of, it cannot unload."""
    if instance.excused:
        return True
    load = instance.channel
    assert load is not None
    closed_at = world.ledgers[load.client].closed_at
    # Cut off while loading: the client never learnt under which identifier, or it began to close
    # before the instance was there to be found.
    return not load.told and (not load.named or instance.loaded_at > closed_at)


def check_unload(server: "Server", ledger: "Ledger", instance: Instance) -> Iterator[str]:
    """Called when a client of ours unloads an instance. `ledger` is that client's."""
    identifier, reference = instance.info.identifier, instance.info.instance_reference
    looked_up = server.looked_up.pop((ledger.client, identifier), math.inf)
    if reference in ledger.unprotected:
        return
    if instance.channel is not None:
        if ledger.held[reference] > 0 and ledger.closed_at == math.inf:
            yield f"{reference} was unloaded while {ledger.held[reference]} scopes held it"
        if reference in ledger.kept:
            yield f"{reference} was unloaded though it was awaited without a scope"
        return
    # The protocol unloads by identifier. Between looking up ours and unloading it, it can go and
    # another can take its name: nothing can be done about that. After a load that was cut off, the
    # identifier is all that we know of (L10).
    cut_off = any(load.identifier == identifier and not load.told for load in server.loads)
    if looked_up > instance.loaded_at and not cut_off:
        yield f"{reference} of another client was unloaded"
