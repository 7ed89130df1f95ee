"""This library."""

import lmstudio_async
from benchmarks.programs.workloads import measure

if __name__ == "__main__":
    measure(lmstudio_async.AsyncClient)
