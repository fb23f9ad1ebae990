"""Figures that the database keeps, as Prometheus reads them."""

import msgspec
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from api.metrics import StoredFigures
from core.health import Sample
from core.metrics import LATENCY_BUCKETS, Counters


def _samples() -> list[Sample]:
    return [
        Sample("jewelshot_workers", {}, 2),
        Sample("jewelshot_jobs_total", {"job": "mail", "outcome": "done"}, 3),
        Sample("jewelshot_jobs_total", {"job": 'of "ours"\nand \\'}, 1),
        Sample("jewelshot_provider_slots", {"account": "b"}, 4),
        Sample("jewelshot_provider_slots", {"account": "a"}, 5),
    ]


# Name and labels, one after the other, to value. Prometheus takes an empty label for none.
Series = dict[tuple[str, ...], float]


def _families(samples: list[Sample]) -> dict[str, tuple[str, Series]]:
    text = generate_latest(StoredFigures(samples)).decode()
    families: dict[str, tuple[str, Series]] = {}
    for family in text_string_to_metric_families(text):
        series: Series = {}
        for sample in family.samples:
            labels = [part for pair in sample.labels.items() if pair[1] for part in pair]
            series[sample.name, *labels] = sample.value
        families[family.name] = (family.type, series)
    return families


def test_counters_and_gauges() -> None:
    assert _families(_samples()) == {
        "jewelshot_jobs": (
            "counter",
            {
                ("jewelshot_jobs_total", "job", "mail", "outcome", "done"): 3,
                ("jewelshot_jobs_total", "job", 'of "ours"\nand \\'): 1,
            },
        ),
        "jewelshot_provider_slots": (
            "gauge",
            {
                ("jewelshot_provider_slots", "account", "b"): 4,
                ("jewelshot_provider_slots", "account", "a"): 5,
            },
        ),
        "jewelshot_workers": ("gauge", {("jewelshot_workers",): 2}),
    }


def test_what_a_worker_observed_is_a_histogram() -> None:
    counters = Counters()
    for seconds in (0.02, 0.02, 700, 5_000):
        counters.observe("jewelshot_image_seconds", seconds, lane="locked")
    counters.observe("jewelshot_image_seconds", 1, lane="reimagined")
    stored = counters.take()[::-1]  # in whatever order
    samples = [Sample(name, msgspec.json.decode(labels), value) for name, labels, value in stored]
    kind, values = _families(samples)["jewelshot_image_seconds"]
    assert kind == "histogram"
    assert values["jewelshot_image_seconds_count", "lane", "locked"] == 4
    assert values["jewelshot_image_seconds_sum", "lane", "locked"] == 5_700.04
    buckets = {
        name[-1]: value
        for name, value in values.items()
        if name[0].endswith("_bucket") and "locked" in name
    }
    assert list(buckets) == [*map(str, LATENCY_BUCKETS), "+Inf"]
    assert [buckets["0.05"], buckets["300"], buckets["900"], buckets["+Inf"]] == [2, 2, 3, 4]
