import sys

from lmstudio_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
