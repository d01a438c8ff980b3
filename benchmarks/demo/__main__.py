"""`python -m benchmarks.demo`: see `benchmarks.demo.run`."""

import sys

from benchmarks.demo.run import main

if __name__ == "__main__":
    sys.exit(main())
