"""The router's counters in Prometheus' text exposition format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable

from amlocal.emulator.endpoints.counters import BUCKETS_MS, Counters, DeploymentCounters, Latency

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(counters: Counters) -> str:
    """All counters; each sample has the labels workspace, endpoint and deployment."""
    known = [(_labels(endpoint, deployment), value) for endpoint, deployment, value in counters.all()]
    lines = _family("amlocal_requests_total", "counter", "Requests by the status of their answer.")
    lines += _by_status("amlocal_requests_total", ((labels, value.requests) for labels, value in known))
    lines += _family("amlocal_model_status_total", "counter", "Answers by the status that the model gave.")
    lines += _by_status(
        "amlocal_model_status_total", ((labels, value.model_status) for labels, value in known)
    )
    for name, kind, text, read in _PLAIN:
        lines += _family(name, kind, text)
        lines += [f"{name}{{{labels}}} {read(value)}" for labels, value in known]
    lines += _family("amlocal_request_duration_seconds", "histogram", "From a request to its answer.")
    for labels, value in known:
        lines += _histogram("amlocal_request_duration_seconds", labels, value.latency)
    return "\n".join(lines) + "\n"


def _in_flight(value: DeploymentCounters) -> int:
    return value.in_flight


def _mirrored(value: DeploymentCounters) -> int:
    return value.mirrored


def _dropped(value: DeploymentCounters) -> int:
    return value.mirror_dropped


_PLAIN = (
    ("amlocal_requests_in_flight", "gauge", "Requests under way.", _in_flight),
    ("amlocal_mirrored_total", "counter", "Copies of requests that the deployment got.", _mirrored),
    ("amlocal_mirror_dropped_total", "counter", "Copies left out, too many being under way.", _dropped),
)


def _family(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _by_status(name: str, samples: Iterable[tuple[str, dict[int, int]]]) -> list[str]:
    return [
        f'{name}{{{labels},status="{status}"}} {number}'
        for labels, statuses in samples
        for status, number in sorted(statuses.items())
    ]


def _histogram(name: str, labels: str, latency: Latency) -> list[str]:
    total, lines = 0, []
    for end, count in zip((*(f"{end / 1000:g}" for end in BUCKETS_MS), "+Inf"), latency.buckets, strict=True):
        total += count
        lines.append(f'{name}_bucket{{{labels},le="{end}"}} {total}')
    return [
        *lines,
        f"{name}_sum{{{labels}}} {latency.sum / 1000:.6f}",
        f"{name}_count{{{labels}}} {latency.count}",
    ]


def _labels(endpoint: str, deployment: str) -> str:
    workspace, _, name = endpoint.partition("/")
    pairs = {"workspace": workspace, "endpoint": name, "deployment": deployment}
    return ",".join(f'{key}="{_escaped(value)}"' for key, value in pairs.items())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
