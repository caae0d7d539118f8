"""What `/metrics` says, under the names that vLLM's dashboards read.

Counts of the engine are read when somebody asks; durations are noted when a sample ends.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from qwq.engine.scheduler import Engine
from qwq.engine.sequence import TokenSequence
from qwq.types import StopReason

FINISHED = {
    StopReason.END: "stop", StopReason.STOP: "stop", StopReason.LENGTH: "length", StopReason.CONTEXT: "length",
    StopReason.LOOP: "repetition", StopReason.ABORT: "abort",
}  # fmt: skip
SHORT_S = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.15,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
)
LONG_S = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)


class _EngineCollector:
    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name

    def collect(self) -> Iterator[Metric]:
        engine, stats = self.engine, self.engine.stats
        running = list(engine.running)
        held = sum(s.num_computed for s in running) / max(engine.backend.slot_capacity, 1)
        gauges = {
            "num_requests_running": ("Samples that are being computed.", len(running)),
            "num_requests_waiting": ("Samples that wait for their turn.", len(engine.waiting)),
            "kv_cache_usage_perc": ("Share of the key/value cache that running samples hold, 0 to 1.", min(1.0, held)),
        }
        counters = {
            "num_preemptions": ("Samples sent back to waiting for want of memory.", stats.preemptions),
            "prompt_tokens": ("Prompt tokens of admitted samples.", stats.prompt_tokens),
            "generation_tokens": ("Tokens written.", stats.output_tokens),
            "prefix_cache_queries": ("Prompt tokens looked for in the prefix cache.", stats.prompt_tokens),
            "prefix_cache_hits": ("Prompt tokens found there.", stats.cached_tokens),
            "spec_decode_num_draft_tokens": ("Tokens guessed.", stats.drafted),
            "spec_decode_num_accepted_tokens": ("Guessed tokens that were right.", stats.accepted),
            "iteration_tokens": ("Tokens computed, of prompts and answers.", stats.computed_tokens),
        }
        for key, (words, value) in gauges.items():
            gauge = GaugeMetricFamily(f"vllm:{key}", words, labels=["model_name"])
            gauge.add_metric([self.name], value)
            yield gauge
        for key, (words, value) in counters.items():
            counter = CounterMetricFamily(f"vllm:{key}", words, labels=["model_name"])
            counter.add_metric([self.name], value)
            yield counter


class Metrics:
    """One server's registry."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(engine, name))  # type: ignore[arg-type]

        def histogram(key: str, words: str, buckets: tuple[float, ...]) -> Histogram:
            family = Histogram(f"vllm:{key}", words, ["model_name"], buckets=buckets, registry=self._registry)
            return family.labels(name)

        self._first = histogram("time_to_first_token_seconds", "From a request's arrival to its first token.", SHORT_S)
        self._between = histogram("inter_token_latency_seconds", "Mean time between a sample's tokens.", SHORT_S)
        self._per_token = histogram("time_per_output_token_seconds", "The same under its older name.", SHORT_S)
        self._whole = histogram("e2e_request_latency_seconds", "From arrival to the last token.", LONG_S)
        self._queued = histogram("request_queue_time_seconds", "From arrival to admission.", LONG_S)
        self._prefill = histogram("request_prefill_time_seconds", "From admission to the first token.", LONG_S)
        self._decode = histogram("request_decode_time_seconds", "From the first token to the last.", LONG_S)
        self._inference = histogram("request_inference_time_seconds", "From admission to the last token.", LONG_S)
        self._prompt = histogram("request_prompt_tokens", "Prompt tokens of a sample.", TOKENS)
        self._output = histogram("request_generation_tokens", "Tokens that a sample wrote.", TOKENS)
        self._thinking = histogram("request_reasoning_tokens", "Tokens of thinking among them (qwq's own).", TOKENS)
        self._ended = Counter(
            "vllm:request_success",
            "Samples that ended, by reason.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self._name = name

    def note(self, sample: TokenSequence) -> None:
        """A sample has ended, or was given up."""
        times = sample.times
        reason = FINISHED.get(sample.stop_reason or StopReason.ABORT, "abort")
        self._ended.labels(self._name, reason).inc()
        self._prompt.observe(sample.num_prompt)
        self._output.observe(len(sample.ids))
        self._thinking.observe(sample.num_thinking)
        if sample.admitted is None or len(times) < 2:
            return
        arrived, first, last = times[0], times[1], times[-1]
        self._first.observe(first - arrived)
        self._whole.observe(last - arrived)
        self._queued.observe(sample.admitted - arrived)
        self._prefill.observe(first - sample.admitted)
        self._decode.observe(last - first)
        self._inference.observe(last - sample.admitted)
        if len(sample.ids) > 1:
            gap = (last - first) / (len(sample.ids) - 1)
            self._between.observe(gap)
            self._per_token.observe(gap)

    def text(self) -> bytes:
        return generate_latest(self._registry)
