"""Part of `make bench`: WeCom, at our fake of it in a process of its own, in one run.

    python -m benchmarks.wecom [--only rate callbacks welcome kill endpoint] [--rounds 3]

Every measurement starts a real nats-server with `sync_interval: always` on a new directory. The
rate is of the class that Ray runs; callbacks, welcome messages and the kill go through `tact up` as
a user starts it. Method and the last results: benchmarks/README.md. Nothing is printed that was not
measured in this run.
"""

from __future__ import annotations

import uvloop

from benchmarks.figures import Parts, options_of, run_parts
from benchmarks.wecom_callbacks import measure_callbacks
from benchmarks.wecom_endpoint import measure_endpoint
from benchmarks.wecom_kill import measure_wecom_kill
from benchmarks.wecom_rate import measure_rate
from benchmarks.wecom_welcome import measure_welcome

PARTS: Parts = {
    "rate": measure_rate,
    "callbacks": measure_callbacks,
    "welcome": measure_welcome,
    "kill": measure_wecom_kill,
    "endpoint": measure_endpoint,
}


def main() -> None:
    parser = options_of(__doc__, PARTS)
    parser.add_argument("--messages", type=int, default=0, help="at most so many of the rate")
    parser.add_argument("--seconds", type=int, default=30, help="of callbacks")
    uvloop.run(run_parts("Figures of WeCom", PARTS, parser.parse_args()))


if __name__ == "__main__":
    main()
