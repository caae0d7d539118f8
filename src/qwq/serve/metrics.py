"""What `/metrics` says, under the names that vLLM's dashboards read.

Counts of the engine are read when somebody asks; durations are noted when a sample ends. One
registry serves all models of a server: what a model counted stays while another one is loaded,
since counters may only grow.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from qwq.engine.planner import Stats
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
    """Gauges of the engines that are loaded, counters of all that were."""

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}
        self._ended: dict[str, dict[str, float]] = {}

    def attach(self, engine: Engine, name: str) -> None:
        self.engines[name] = engine

    def detach(self, name: str) -> None:
        if name in self.engines:
            self._ended[name] = {key: value for key, (_, value) in self._counters(name).items()}
            del self.engines[name]

    def _counters(self, name: str) -> dict[str, tuple[str, float]]:
        engine, before = self.engines.get(name), self._ended.get(name, {})
        stats = Stats() if engine is None else engine.stats
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
        return {key: (words, value + before.get(key, 0)) for key, (words, value) in counters.items()}

    @staticmethod
    def _gauges(engine: Engine) -> dict[str, tuple[str, float]]:
        running = list(engine.running)
        held = sum(s.num_computed for s in running) / max(engine.backend.slot_capacity, 1)
        return {
            "num_requests_running": ("Samples that are being computed.", len(running)),
            "num_requests_waiting": ("Samples that wait for their turn.", len(engine.waiting)),
            "kv_cache_usage_perc": ("Share of the key/value cache that running samples hold, 0 to 1.", min(1.0, held)),
        }

    def collect(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for name, engine in list(self.engines.items()):
            for key, (words, value) in self._gauges(engine).items():
                gauge = families.setdefault(key, GaugeMetricFamily(f"vllm:{key}", words, labels=["model_name"]))
                gauge.add_metric([name], value)
        for name in dict.fromkeys((*self._ended, *self.engines)):
            for key, (words, value) in self._counters(name).items():
                counter = families.setdefault(key, CounterMetricFamily(f"vllm:{key}", words, labels=["model_name"]))
                counter.add_metric([name], value)
        yield from families.values()


class ServerMetrics:
    """One server's registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._engines = _EngineCollector()
        self._registry.register(self._engines)
        self.attach, self.detach = self._engines.attach, self._engines.detach

        def histogram(key: str, words: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"vllm:{key}", words, ["model_name"], buckets=buckets, registry=self._registry)

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

    def note(self, name: str, sample: TokenSequence) -> None:
        """A sample of the model `name` has ended, or was given up."""
        times = sample.times
        reason = FINISHED.get(sample.stop_reason or StopReason.ABORT, "abort")
        self._ended.labels(name, reason).inc()
        self._prompt.labels(name).observe(sample.num_prompt)
        self._output.labels(name).observe(len(sample.ids))
        self._thinking.labels(name).observe(sample.num_thinking)
        if sample.admitted is None or len(times) < 2:
            return
        arrived, first, last = times[0], times[1], times[-1]
        self._first.labels(name).observe(first - arrived)
        self._whole.labels(name).observe(last - arrived)
        self._queued.labels(name).observe(sample.admitted - arrived)
        self._prefill.labels(name).observe(first - sample.admitted)
        self._decode.labels(name).observe(last - first)
        self._inference.labels(name).observe(last - sample.admitted)
        if len(sample.ids) > 1:
            gap = (last - first) / (len(sample.ids) - 1)
            self._between.labels(name).observe(gap)
            self._per_token.labels(name).observe(gap)

    def text(self) -> bytes:
        return generate_latest(self._registry)
