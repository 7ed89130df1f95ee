"""`lmstudio`, through its asynchronous client."""

import lmstudio

from benchmarks.programs.workloads import measure

if __name__ == "__main__":
    measure(lmstudio.AsyncClient)
