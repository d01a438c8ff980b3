"""Counters of many processes in one: sums, processes that die, and the text that is served."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

import hub.metrics
from hub.metrics import OTHERS, TABLE, Metrics, Snapshot, Totals, render

INTENTS = ("tact_intents_total", ("shop", "normal"))


def counted(intents: float, gauge: float = 0) -> Snapshot:
    return Snapshot(counters={INTENTS: intents}, gauges={("tact_held", ()): gauge})


def samples(snapshot: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The served text, read back by the Prometheus parser."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(render(snapshot).decode())
        for sample in family.samples
    }


def test_a_process_counts_and_observes():
    metrics = Metrics()
    metrics.add("tact_intents_total", ("shop", "normal"), 3)
    metrics.add("tact_intents_total", ("shop", "normal"))
    metrics.observe("tact_commit_seconds", 0.02)
    metrics.observe_all("tact_commit_seconds", [100.0, 100.0])
    told = samples(metrics.snapshot({("tact_held", ()): 7}))
    assert told["tact_intents_total", (("app", "shop"), ("lane", "normal"))] == 4
    assert told["tact_held", ()] == 7
    assert told["tact_commit_seconds_count", ()] == 3
    assert told["tact_commit_seconds_sum", ()] == pytest.approx(200.02)
    assert told["tact_commit_seconds_bucket", (("le", "0.01"),)] == 0
    assert told["tact_commit_seconds_bucket", (("le", "0.025"),)] == 1
    assert told["tact_commit_seconds_bucket", (("le", "60.0"),)] == 1
    assert told["tact_commit_seconds_bucket", (("le", "+Inf"),)] == 3


def test_a_value_on_a_bound_belongs_to_its_bucket():
    metrics = Metrics()
    metrics.observe("tact_commit_seconds", 0.01)
    told = samples(metrics.snapshot())
    assert told["tact_commit_seconds_bucket", (("le", "0.005"),)] == 0
    assert told["tact_commit_seconds_bucket", (("le", "0.01"),)] == 1


def test_processes_sum_series_by_series():
    one, other = Metrics(), Metrics()
    for metrics, lane in ((one, "normal"), (one, "bulk"), (other, "normal")):
        metrics.add("tact_intents_total", ("shop", lane))
        metrics.observe("tact_decision_seconds", 0.02, (lane,))
    totals = Totals()
    totals.update({"a": one.snapshot(), "b": other.snapshot()})
    told = samples(totals.total())
    assert told["tact_intents_total", (("app", "shop"), ("lane", "normal"))] == 2
    assert told["tact_intents_total", (("app", "shop"), ("lane", "bulk"))] == 1
    assert told["tact_decision_seconds_count", (("lane", "normal"),)] == 2


def test_summing_leaves_the_snapshots_alone():
    totals = Totals()
    metrics = Metrics()
    metrics.observe("tact_commit_seconds", 0.02)
    totals.update({"a": metrics.snapshot(), "b": metrics.snapshot()})
    first = totals.total()
    assert totals.total() == first


def test_counters_do_not_go_back_when_a_process_dies_and_another_takes_its_place():
    totals = Totals()
    totals.update({"host-0-x": counted(10, gauge=5), "host-1-y": counted(7, gauge=2)})
    assert totals.total().counters[INTENTS] == 17
    totals.update({"host-1-y": counted(8, gauge=2)})  # host-0 is dead
    assert totals.total().counters[INTENTS] == 18
    assert totals.total().gauges["tact_held", ()] == 2  # what it held, others hold now
    totals.update({"host-0-z": counted(0, gauge=5), "host-1-y": counted(8, gauge=2)})
    assert totals.total().counters[INTENTS] == 18
    totals.update({"host-0-z": counted(4, gauge=6), "host-1-y": counted(9, gauge=2)})
    assert totals.total().counters[INTENTS] == 23
    assert totals.total().gauges["tact_held", ()] == 8


def test_histograms_of_dead_processes_stay():
    metrics = Metrics()
    metrics.observe_all("tact_commit_seconds", [0.02] * 5)
    totals = Totals()
    totals.update({"a": metrics.snapshot()})
    totals.update({})
    assert samples(totals.total())["tact_commit_seconds_count", ()] == 5


def test_every_metric_is_in_the_text_even_before_it_counted():
    families = {
        family.name for family in text_string_to_metric_families(render(Snapshot()).decode())
    }
    assert families == {name.removesuffix("_total") for name in TABLE}


def test_labels_are_escaped():
    snapshot = Snapshot(counters={("tact_held_by_rule_total", ('a "b"\\\n',)): 1})
    assert samples(snapshot)["tact_held_by_rule_total", (("rule", 'a "b"\\\n'),)] == 1


def test_no_metric_is_labelled_by_customer_intent_or_delivery():
    labels = {label for _, _, names in TABLE.values() for label in names}
    assert not labels & {"customer", "key", "intent", "delivery", "to", "id"}


def test_names_that_others_choose_do_not_make_series_without_end(monkeypatch):
    monkeypatch.setattr(hub.metrics, "SERIES_MAX", 3)
    counted = Metrics()
    counted.add("tact_intents_total", ("shop", "bulk"))
    for number in range(100):
        counted.add_all([("tact_deliveries_total", ("push", f"nobody-{number}", "sent"))] * 2)
        counted.add("tact_intents_total", ("shop", "bulk"))
    found = counted.snapshot().counters
    assert len(found) <= 3 + 1
    assert found["tact_intents_total", ("shop", "bulk")] == 101
    assert found["tact_deliveries_total", ("push", OTHERS, "sent")] == 2 * 98
    assert sum(found.values()) == 101 + 200
