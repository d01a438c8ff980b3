"""Part of `make bench`: deliveries stored in LEDGER to SMS submitted, on one machine, in one run.

    python -m benchmarks.send [--only rate pacing idle kill] [--rounds 3] [--sms 20000]

Every measurement starts a real nats-server with `sync_interval: always` on a new directory, our
SMSC in a process of its own, and the class that Ray runs in another. Method and the last results:
benchmarks/README.md. Nothing is printed that was not measured in this run.
"""

from __future__ import annotations

import uvloop

from benchmarks.figures import Parts, options_of, run_parts
from benchmarks.send_idle import measure_idle_accounts
from benchmarks.send_kill import measure_send_kill
from benchmarks.send_pacing import measure_pacing
from benchmarks.send_rate import measure_rate

PARTS: Parts = {
    "rate": measure_rate,
    "pacing": measure_pacing,
    "idle": measure_idle_accounts,
    "kill": measure_send_kill,
}


def main() -> None:
    parser = options_of(__doc__, PARTS)
    parser.add_argument("--sms", type=int, default=20_000, help="of the rate, in one run")
    uvloop.run(run_parts("Figures of sending", PARTS, parser.parse_args()))


if __name__ == "__main__":
    main()
