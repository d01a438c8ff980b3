"""Metrics of every process, counted cheaply and rendered once.

A process counts in plain dictionaries (a turn adds once for many intents); a scrape collects the
`Snapshot` of each process and renders the sum. Names, kinds and labels stand in one table. No
customer, intent or delivery id is ever a label. Source: docs/contract.md, "Metrics".
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable

from msgspec import Struct, field
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from hub import limits

TABLE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "tact_intents_total": ("counter", "Intents decided", ("app", "lane")),
    "tact_outcomes_total": ("counter", "Outcomes told", ("state", "category", "channel")),
    "tact_held_by_rule_total": ("counter", "Times a rule held an intent", ("rule",)),
    "tact_suppressed_by_rule_total": ("counter", "Times a rule suppressed an intent", ("rule",)),
    "tact_rejected_total": ("counter", "Inputs rejected, by lane", ("lane",)),
    "tact_events_total": ("counter", "Events told to applications", ("kind", "rule")),
    "tact_ignored_total": ("counter", "Inputs that rightly change nothing", ("what",)),
    "tact_held": ("gauge", "Conversations with intents held, or that may fall back", ()),
    "tact_conversations": ("gauge", "Conversations known", ()),
    "tact_partitions": ("gauge", "Partitions owned", ()),
    "tact_decision_seconds": ("histogram", "Acknowledged by the stream to committed", ("lane",)),
    "tact_commit_seconds": ("histogram", "One atomic batch, all its tries", ()),
    "tact_commit_intents": ("histogram", "Inputs decided in one batch", ()),
    "tact_lag": ("gauge", "Messages stored and not yet decided", ("partition", "lane")),
    "tact_fence_lost_total": ("counter", "Commits refused to a replaced owner", ()),
    "tact_commit_replies_total": ("counter", "Server replies to commits", ("reply",)),
    "tact_bodies_lost_total": ("counter", "Parked bodies that could not be read back", ()),
    "tact_deliveries_total": (
        "counter",
        "Deliveries put into the ledger, and receipts for them",
        ("channel", "account", "result"),
    ),
    "tact_unknown_total": ("counter", "Receipts that say unknown", ("channel",)),
    "tact_account_commit_seconds": ("histogram", "One turn of a partition of accounts", ()),
    "tact_account_waiting": ("gauge", "Deliveries that wait for an account", ("account",)),
    "tact_account_open": ("gauge", "Submissions claimed and unanswered", ("account",)),
    "tact_account_window": (
        "gauge",
        "Units an account's connection takes at once; 0 while there is none",
        ("account",),
    ),
    "tact_account_circuit": ("gauge", "0 closed, 1 half open, 2 open", ("account",)),
    "tact_account_throttled_seconds_total": (
        "counter",
        "Pauses that a provider has asked for",
        ("account",),
    ),
    "tact_submissions_total": (
        "counter",
        "Answers of providers to submissions",
        ("account", "answer"),
    ),
    "tact_unanswered_total": ("counter", "Submissions that may have been sent", ("account",)),
    "tact_receipts_total": (
        "counter",
        "What accounts told of deliveries",
        ("channel", "account", "status"),
    ),
    "tact_receipts_early_total": (
        "counter",
        "Receipts that came before the answer to their submission",
        ("account",),
    ),
    "tact_handed_over_total": (
        "counter",
        "Deliveries handed to another account by one that cannot work",
        ("account",),
    ),
    "tact_inbound_total": ("counter", "Messages of customers", ("account",)),
    "tact_opt_outs_total": ("counter", "Customers who asked not to be written to", ("account",)),
    "tact_provider_total": ("counter", "What a provider's connection met", ("account", "what")),
    "tact_intake_gaps_total": ("counter", "Readers recreated after a gap", ()),
}
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
INPUTS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0)
BOUNDS = {
    "tact_decision_seconds": SECONDS,
    "tact_commit_seconds": SECONDS,
    "tact_account_commit_seconds": SECONDS,
    "tact_commit_intents": INPUTS,
}

SERIES_MAX = 50_000
"""Counters of one process: 20,000 accounts with a few each. Who names an account or an application
that does not exist in each of his messages makes no more; see `OTHERS`."""
_NAMED_BY_OTHERS = frozenset(("account", "app"))
OTHERS = "(others)"
"""Stands for accounts and applications that are counted together, when SERIES_MAX is reached."""

Series = tuple[str, tuple[str, ...]]


class Snapshot(Struct):
    """All series of one process: counters, gauges, and per histogram its buckets and sum."""

    counters: dict[Series, float] = field(default_factory=dict)
    gauges: dict[Series, float] = field(default_factory=dict)
    histograms: dict[Series, list[float]] = field(default_factory=dict)

    def add(self, other: Snapshot) -> None:
        """Take another process's series in: everything sums."""
        for mine, its in ((self.counters, other.counters), (self.gauges, other.gauges)):
            for series, value in its.items():
                mine[series] = mine.get(series, 0.0) + value
        for series, values in other.histograms.items():
            own = self.histograms.get(series)
            self.histograms[series] = (
                list(values) if own is None else [a + b for a, b in zip(own, values, strict=True)]
            )


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        self._counters: Counter[Series] = Counter()
        self._histograms: dict[Series, list[float]] = {}

    def add(self, name: str, labels: tuple[str, ...] = (), count: float = 1) -> None:
        self._counters[(name, labels)] += count  # type: ignore[assignment]
        if len(self._counters) > SERIES_MAX:
            self._join_newest()

    def add_all(self, series: Iterable[Series]) -> None:
        """Add one to each, as often as it is listed."""
        self._counters.update(series)
        if len(self._counters) > SERIES_MAX:
            self._join_newest()

    def _join_newest(self) -> None:
        """What came beyond SERIES_MAX is counted under OTHERS; older series go on as they are."""
        newest = [self._counters.popitem() for _ in range(len(self._counters) - SERIES_MAX)]
        for (name, labels), count in newest:
            kinds = TABLE[name][2]
            joined = (
                OTHERS if kind in _NAMED_BY_OTHERS else label
                for kind, label in zip(kinds, labels, strict=True)
            )
            self._counters[name, tuple(joined)] += count

    def observe(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        self.observe_all(name, [value], labels)

    def observe_all(self, name: str, values: Iterable[float], labels: tuple[str, ...] = ()) -> None:
        """Many observations at once, in any order: a turn commits many intents at one moment.

        Negative values, told by two clocks that differ, count as zero.
        """
        bounds = BOUNDS[name]
        buckets = self._histograms.setdefault((name, labels), [0.0] * (len(bounds) + 2))
        observed = sorted(values)
        below = 0
        for index, bound in enumerate(bounds):
            upto = bisect_right(observed, bound, below)
            buckets[index] += upto - below
            below = upto
        buckets[-2] += len(observed) - below
        buckets[-1] += sum(observed[bisect_right(observed, 0.0) :])

    def snapshot(self, gauges: dict[Series, float] | None = None) -> Snapshot:
        return Snapshot(
            dict(self._counters),
            gauges or {},
            {series: list(values) for series, values in self._histograms.items()},
        )


class Totals:
    """Sums over processes that come and go: what a dead process counted is not forgotten."""

    def __init__(self) -> None:
        self._known: dict[str, Snapshot] = {}
        """The last snapshot of every process, silent or not; the longest silent first."""
        self._ended = Snapshot()
        """Counters of those that have been silent longest."""

    def update(self, live: dict[str, Snapshot]) -> None:
        """`live`: the snapshot of every process incarnation that answers now."""
        for name, snapshot in live.items():
            self._known.pop(name, None)
            self._known[name] = snapshot
        for name in self._known.keys() - live.keys():
            self._known[name].gauges = {}
        while len(self._known) > max(limits.PROCESSES_REMEMBERED, len(live)):
            self._ended.add(self._known.pop(next(iter(self._known))))

    def total(self) -> Snapshot:
        total = Snapshot()
        for snapshot in (self._ended, *self._known.values()):
            total.add(snapshot)
        return total


def render(snapshot: Snapshot) -> bytes:
    """The Prometheus text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(list(_families(snapshot))))  # type: ignore[arg-type]
    return generate_latest(registry)


class _Collected:
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _families(snapshot: Snapshot) -> Iterable[Metric]:
    for name, (kind, help_text, label_names) in TABLE.items():
        if kind == "histogram":
            yield _histogram(name, help_text, label_names, snapshot)
            continue
        family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        metric = family(name, help_text, labels=label_names)
        source = snapshot.counters if kind == "counter" else snapshot.gauges
        for (series, labels), value in sorted(source.items()):
            if series == name:
                metric.add_metric(labels, value)
        yield metric


def _histogram(
    name: str, help_text: str, label_names: tuple[str, ...], snapshot: Snapshot
) -> Metric:
    metric = HistogramMetricFamily(name, help_text, labels=label_names)
    for (series, labels), values in sorted(snapshot.histograms.items()):
        if series != name:
            continue
        cumulative, buckets = 0.0, []
        bounds = [*map(str, BOUNDS[name]), "+Inf"]
        for bound, count in zip(bounds, values[:-1], strict=True):
            cumulative += count
            buckets.append((bound, cumulative))
        metric.add_metric(labels, buckets, values[-1])
    return metric
