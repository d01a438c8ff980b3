"""Part of `make bench`: push, at our fakes of FCM and APNs in processes of their own, in one run.

    python -m benchmarks.push [--only fcm apns] [--rounds 3] [--messages 20000]

Every measurement starts a real nats-server with `sync_interval: always` on a new directory, and the
class that Ray runs; beside it, the same requests in a bare loop of the same client at the same
fake. Method and the last results: benchmarks/README.md. Nothing is printed that was not measured
in this run.
"""

from __future__ import annotations

import uvloop

from benchmarks.figures import Parts, options_of, run_parts
from benchmarks.push_rate import measure_apns, measure_fcm

PARTS: Parts = {"fcm": measure_fcm, "apns": measure_apns}


def main() -> None:
    parser = options_of(__doc__, PARTS)
    parser.add_argument("--messages", type=int, default=20_000, help="of one run")
    uvloop.run(run_parts("Figures of push", PARTS, parser.parse_args()))


if __name__ == "__main__":
    main()
