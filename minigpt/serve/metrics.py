"""What a running server says of itself to Prometheus: under vLLM's names, which dashboards know, and a few of ours."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from minigpt.serve.worker import Ticket, Worker

if TYPE_CHECKING:
    from minigpt.generate.request import Token

SOON = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
        160.0, 640.0, 2560.0)  # fmt: skip
BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
           10.0, 20.0, 40.0, 80.0)  # fmt: skip
LONG = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
        1920.0, 7680.0)  # fmt: skip
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
LABEL = "model_name"
PATHS = frozenset({"/", "/health", "/live", "/metrics", "/tokenize", "/detokenize", "/v1/models", "/v1/responses",
                   "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/messages/count_tokens"})  # fmt: skip


class Metrics:
    """One registry for one server. `text` is what `/metrics` answers."""

    def __init__(self, worker: Worker):
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self.worker, self.registry = worker, CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Any:
            return Counter(name, text, [LABEL, *labels], registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Any:
            return Histogram(name, text, [LABEL], buckets=buckets, registry=self.registry)

        self.prompt = counter("vllm:prompt_tokens", "Tokens of prompts.")
        self.generated = counter("vllm:generation_tokens", "Tokens of answers.")
        self.success = counter("vllm:request_success", "Answers that ended.", "finished_reason")
        self.preempted = counter("vllm:num_preemptions", "Answers that were interrupted for others: never, here.")
        self.first = histogram("vllm:time_to_first_token_seconds", "From the request to its first token.", SOON)
        self.between = histogram("vllm:inter_token_latency_seconds", "Between two tokens of an answer.", BETWEEN)
        self.whole = histogram("vllm:e2e_request_latency_seconds", "From the request to its last token.", LONG)
        self.queued = histogram("vllm:request_queue_time_seconds", "Until a row was free.", LONG)
        self.prefill = histogram("vllm:request_prefill_time_seconds", "Reading the prompt.", LONG)
        self.decode = histogram("vllm:request_decode_time_seconds", "From the first token to the last.", LONG)
        self.inference = histogram("vllm:request_inference_time_seconds", "Reading and answering.", LONG)
        self.prompts = histogram("vllm:request_prompt_tokens", "Tokens of a prompt.", COUNTS)
        self.answers = histogram("vllm:request_generation_tokens", "Tokens of an answer.", COUNTS)
        self.per_step = histogram("vllm:iteration_tokens_total", "Tokens that one step computed.", COUNTS)
        self.http = Counter("minigpt_http_requests", "Requests by path and status.", ["path", "status"],
                            registry=self.registry)  # fmt: skip
        self.registry.register(_Now(worker))
        for name in worker.models:  # every series is there from the start, with 0
            for one in (
                self.prompt, self.generated, self.preempted, self.first, self.between, self.whole, self.queued,
                self.prefill, self.decode, self.inference, self.prompts, self.answers, self.per_step,
            ):  # fmt: skip
                one.labels(name)
            for reason in (*REASONS.values(), *UNFINISHED):
                self.success.labels(name, reason)
        worker.watch, worker.left, worker.stepped = self.token, self.abandoned, self.step

    def token(self, ticket: Ticket, token: "Token") -> None:
        """Count a token that is being handed out."""
        now, name = time.monotonic(), ticket.model
        if ticket.first is None:
            self.first.labels(name).observe(now - ticket.asked)
        else:
            self.between.labels(name).observe(now - ticket.last)
        if token.done:
            self.end(ticket, now)

    def answered(self, path: str, status: int) -> None:
        """Count a request; paths that are none are counted together."""
        self.http.labels(path if path in PATHS else "other", str(status)).inc()

    def step(self, model: str, tokens: int) -> None:
        self.per_step.labels(model).observe(tokens)

    def abandoned(self, ticket: Ticket, reason: str) -> None:
        """Count an answer that nobody waits for any more ("abort"), or that has failed ("error")."""
        self.success.labels(ticket.model, reason).inc()
        if ticket.sequence is not None:
            self.prompt.labels(ticket.model).inc(ticket.sequence.prompt_tokens)
            self.generated.labels(ticket.model).inc(len(ticket.sequence.ids))

    def end(self, ticket: Ticket, now: float) -> None:
        """Count an answer that is finished."""
        name, sequence = ticket.model, ticket.sequence
        started, first = ticket.started or ticket.asked, ticket.first or now
        self.prompt.labels(name).inc(sequence.prompt_tokens)
        self.generated.labels(name).inc(len(sequence.ids))
        self.success.labels(name, REASONS[sequence.reason]).inc()
        for series, value in (
            (self.whole, now - ticket.asked), (self.queued, started - ticket.asked), (self.prefill, first - started),
            (self.decode, now - first), (self.inference, now - started), (self.prompts, sequence.prompt_tokens),
            (self.answers, len(sequence.ids)),
        ):  # fmt: skip
            series.labels(name).observe(max(0.0, value))

    def text(self) -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


REASONS = {"stop": "stop", "length": "length", "context": "length"}  # why an answer is finished
UNFINISHED = ("abort", "error")


class _Now:
    """What is read when Prometheus asks, not counted."""

    def __init__(self, worker: Worker):
        self.worker = worker

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        kinds = {
            "vllm:num_requests_running": (GaugeMetricFamily, "Sequences that are computed."),
            "vllm:num_requests_waiting": (GaugeMetricFamily, "Sequences that wait for a row."),
            "vllm:kv_cache_usage_perc": (GaugeMetricFamily, "Share of the keys' and values' memory in use, 0 to 1."),
            "vllm:prefix_cache_queries": (CounterMetricFamily, "Tokens of prompts that were looked up."),
            "vllm:prefix_cache_hits": (CounterMetricFamily, "Those whose keys and values were there."),
            "minigpt_prefix_cache_bytes": (GaugeMetricFamily, "Memory of the beginnings that are kept."),
        }
        families = {name: kind(name, text, labels=[LABEL]) for name, (kind, text) in kinds.items()}
        for name, scheduler in self.worker.named_schedulers():
            found = scheduler.metrics
            values = (scheduler.running, scheduler.waiting, found.kv_usage, found.prefix_queries, found.prefix_hits,
                      found.prefix_bytes)  # fmt: skip
            for family, value in zip(families.values(), values, strict=True):
                family.add_metric([name], value)
        yield from families.values()
        up = GaugeMetricFamily("minigpt_engine_up", "1 while the engine answers, 0 when it is dead or stuck.")
        up.add_metric([], float(self.worker.trouble() is None))
        yield up
        places = GaugeMetricFamily("minigpt_places", "Sequences that may be in flight, running or waiting.")
        places.add_metric([], float(self.worker.bounds.rows + self.worker.bounds.queue))
        yield places
        steps = CounterMetricFamily("minigpt_engine_steps", "Steps of the engine.")
        steps.add_metric([], float(self.worker.steps))
        yield steps
