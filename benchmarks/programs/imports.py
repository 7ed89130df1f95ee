"""How long it takes to import MODULE or, of MODULE:NAME, also to look up NAME in it."""

import sys
import time
from importlib import import_module

if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    start = time.perf_counter()
    imported = import_module(module)
    if name:
        getattr(imported, name)
    seconds = time.perf_counter() - start
    print(f'{{"wall_us": {seconds * 1e6}}}')
