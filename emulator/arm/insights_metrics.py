"""Metrics of an online endpoint, as Azure Monitor answers `Metrics - List` for it.

GET {endpoint id}/providers/Microsoft.Insights/metrics. Metrics and dimensions: Azure's "Supported metrics for
Microsoft.MachineLearningServices/workspaces/onlineEndpoints", those of requests; the router counts them, by
the minute, for an hour (see endpoints/counters.py: they begin anew with each start of the router).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, jsonify, request

from amlocal.compat import cloud
from amlocal.emulator.arm import routes
from amlocal.emulator.arm.online_endpoints import ONLINE_ENDPOINTS
from amlocal.emulator.arm.resource import arm_id, check_name, find
from amlocal.emulator.endpoints.counters import Latency
from amlocal.emulator.endpoints.route_table import endpoint_key
from amlocal.emulator.http.errors import AzureError, bad_request
from amlocal.emulator.services import Services

NAMESPACE = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints"
REQUESTS = "RequestsPerMinute"
LATENCY = "RequestLatency"
# Title, unit, dimensions, percentile.
METRICS: Mapping[str, tuple[str, str, tuple[str, ...], float | None]] = {
    REQUESTS: (
        "Requests Per Minute",
        "Count",
        ("deployment", "statusCode", "statusCodeClass", "modelStatusCode"),
        None,
    ),
    LATENCY: ("Request Latency", "Milliseconds", ("deployment",), None),
    **{
        f"{LATENCY}_P{share}": (f"Request Latency P{share}", "Milliseconds", ("deployment",), share / 100)
        for share in (50, 90, 95, 99)
    },
}
AGGREGATIONS = ("average", "count", "maximum", "minimum", "total")
INTERVALS = {"PT1M": 1, "PT5M": 5, "PT15M": 15, "PT30M": 30, "PT1H": 60, "FULL": 0}
# As many points as an answer may have in one series.
MOST_POINTS = 1500
_CLAUSE = re.compile(r"\s*(\w+)\s+eq\s+'([^']{0,100})'\s*\Z")


@dataclass(frozen=True)
class Query:
    """What is asked for; `begin` and `end` are minutes since 1970, `step` is in minutes."""

    begin: int
    end: int
    interval: str
    step: int
    names: Sequence[str]
    aggregations: Sequence[str]
    # By dimension the values wanted; "*" splits by it.
    filter: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Sample:
    """One minute of one deployment under one pair of statuses (0 for none)."""

    minute: int
    dimensions: Mapping[str, str]
    requests: int
    latency: Latency


def add_routes(blueprint: Blueprint, services: Services) -> None:
    """Add the route of online endpoints."""

    def metrics(name: str, **arguments: str) -> Response:
        workspace = routes.workspace_of(services, arguments)
        check_name(ONLINE_ENDPOINTS, name)
        document = find(services, workspace, ONLINE_ENDPOINTS, name)
        counted = services.deployments.counters()
        mine = counted["endpoints"].get(endpoint_key(workspace.id, document.name), {})
        resource = arm_id(workspace, ONLINE_ENDPOINTS, document.name)
        query = parse(request.args, time.time())
        return jsonify(answer(resource, cloud.LOCATION, query, mine))

    for provider in ("Microsoft.Insights", "microsoft.insights"):
        blueprint.add_url_rule(
            f"{routes.WORKSPACE_RULE}/{ONLINE_ENDPOINTS.path}/<name>/providers/{provider}/metrics",
            f"{provider.replace('.', '_')}_metrics",
            metrics,
        )


def parse(arguments: Mapping[str, str], now: float) -> Query:
    """The query of a request at `now`. Raises 400 naming the parameter that is not understood."""
    names = _listed(arguments.get("metricnames", ""), METRICS, "metricnames") or list(METRICS)
    aggregations = _listed(arguments.get("aggregation", ""), AGGREGATIONS, "aggregation") or ["average"]
    interval = arguments.get("interval") or "PT1M"
    if interval not in INTERVALS:
        raise _bad("interval", f"{interval[:60]!r} is none of {', '.join(INTERVALS)}")
    begin, end = _timespan(arguments.get("timespan", ""), now)
    step = INTERVALS[interval] or end - begin
    if (end - begin) / step > MOST_POINTS:
        raise _bad("timespan", f"more than {MOST_POINTS} points; use a longer interval or a shorter timespan")
    namespace = arguments.get("metricnamespace") or NAMESPACE
    if namespace.lower() != NAMESPACE.lower():
        raise _bad("metricnamespace", f"an online endpoint has metrics in {NAMESPACE} only")
    if (arguments.get("resultType") or "Data").lower() != "data":
        raise _bad("resultType", "only Data is answered")
    return Query(
        begin, end, interval, step, names, aggregations, _filter(arguments.get("$filter", ""), names)
    )


def answer(resource: str, region: str, query: Query, counted: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to `query` from an endpoint's counters, by deployment."""
    samples = [sample for sample in _samples(counted) if query.begin <= sample.minute < query.end]
    return {
        "cost": 0,
        "timespan": f"{_iso(query.begin)}/{_iso(query.end)}",
        "interval": query.interval,
        "namespace": NAMESPACE,
        "resourceregion": region,
        "value": [_metric(resource, name, query, samples) for name in query.names],
    }


def _metric(resource: str, name: str, query: Query, samples: Sequence[Sample]) -> dict[str, Any]:
    title, unit, _, share = METRICS[name]
    groups: dict[tuple[tuple[str, str], ...], list[Sample]] = {} if query.filter else {(): []}
    for sample in samples:
        if all(_wanted(sample.dimensions[key], values) for key, values in query.filter.items()):
            groups.setdefault(tuple((key, sample.dimensions[key]) for key in query.filter), []).append(sample)
    return {
        "id": f"{resource}/providers/Microsoft.Insights/metrics/{name}",
        "type": "Microsoft.Insights/metrics",
        "name": {"value": name, "localizedValue": title},
        "unit": unit,
        "errorCode": "Success",
        "timeseries": [
            {
                "metadatavalues": [
                    {"name": {"value": key.lower(), "localizedValue": key.lower()}, "value": value}
                    for key, value in group
                ],
                "data": _points(name, share, query, mine),
            }
            for group, mine in sorted(groups.items())
        ],
    }


def _points(name: str, share: float | None, query: Query, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """A value for each interval of the time span."""
    intervals: dict[int, list[Sample]] = {}
    for sample in samples:
        intervals.setdefault((sample.minute - query.begin) // query.step, []).append(sample)
    return [
        {"timeStamp": _iso(minute), **_point(name, share, query, intervals.get(number, []))}
        for number, minute in enumerate(range(query.begin, query.end, query.step))
    ]


def _point(name: str, share: float | None, query: Query, samples: Sequence[Sample]) -> dict[str, float]:
    """The aggregations of one interval; nothing for one without a request."""
    if not samples:
        return {}
    if name == REQUESTS:
        minutes: dict[int, int] = {}
        for sample in samples:
            minutes[sample.minute] = minutes.get(sample.minute, 0) + sample.requests
        values = list(minutes.values())
        found = _aggregated(sum(values), len(values), min(values), max(values))
    else:
        latency = _merged({(s.minute, s.dimensions["deployment"]): s.latency for s in samples}.values())
        if share is None:
            found = _aggregated(latency.sum, latency.count, latency.min, latency.max)
        else:
            value = latency.percentile(share)
            found = _aggregated(value, 1, value, value)
    return {key: found[key] for key in query.aggregations}


def _aggregated(total: float, count: int, least: float, most: float) -> dict[str, float]:
    values = {"average": total / count, "count": count, "maximum": most, "minimum": least, "total": total}
    return {key: round(float(value), 3) for key, value in values.items()}


def _samples(counted: Mapping[str, Any]) -> Iterable[Sample]:
    for deployment, counters in counted.items():
        for minute, content in counters["minutes"].items():
            latency = Latency(
                **{key: content["latency_ms"][key] for key in ("buckets", "count", "sum", "min", "max")}
            )
            for statuses, number in content["requests"].items():
                status, _, model = statuses.partition("/")
                dimensions = {
                    "deployment": deployment or "None",
                    "statusCode": status,
                    "statusCodeClass": f"{status[0]}xx",
                    "modelStatusCode": model if model != "0" else "None",
                }
                yield Sample(int(minute), dimensions, number, latency)


def _merged(latencies: Iterable[Latency]) -> Latency:
    merged = Latency()
    for latency in latencies:
        merged.min = latency.min if merged.count == 0 else min(merged.min, latency.min)
        merged.max = max(merged.max, latency.max)
        merged.count += latency.count
        merged.sum += latency.sum
        merged.buckets = [ours + theirs for ours, theirs in zip(merged.buckets, latency.buckets, strict=True)]
    return merged


def _wanted(value: str, values: Sequence[str]) -> bool:
    return "*" in values or value.lower() in (wanted.lower() for wanted in values)


def _listed(text: str, known: Iterable[str], parameter: str) -> list[str]:
    by_name = {name.lower(): name for name in known}
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    for word in wanted:
        if word.lower() not in by_name:
            raise _bad(parameter, f"{word[:60]!r} is none of {', '.join(by_name.values())}")
    return list(dict.fromkeys(by_name[word.lower()] for word in wanted))


def _filter(text: str, names: Sequence[str]) -> dict[str, list[str]]:
    """`deployment eq 'blue' or deployment eq 'green' and statusCode eq '*'`, by dimension."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"\sand\s", text) if text.strip() else []:
        clauses = [_CLAUSE.match(clause) for clause in re.split(r"\sor\s", part)]
        if not all(clauses) or len({clause[1].lower() for clause in clauses if clause}) != 1:
            raise _bad("$filter", f"{part[:100]!r} is not of the form: dimension eq 'value' or ...")
        for clause in clauses:
            assert clause is not None
            dimension = next((d for d in METRICS[REQUESTS][2] if d.lower() == clause[1].lower()), "")
            for name in names:
                if dimension not in METRICS[name][2]:
                    words = ", ".join(METRICS[name][2])
                    raise _bad("$filter", f"{name} has no dimension {clause[1][:60]!r}; it has: {words}")
            found.setdefault(dimension, []).append(clause[2])
    return found


def _timespan(text: str, now: float) -> tuple[int, int]:
    """First minute, and the one after the last; the hour before `now` for none."""
    if not text:
        end = int(now) // 60 + 1
        return end - 60, end
    try:
        begin, end = (_minute(part) for part in text.split("/"))
    except ValueError:
        form = "2026-01-01T00:00:00Z/2026-01-01T01:00:00Z"
        raise _bad("timespan", f"{text[:100]!r} is not of the form {form}") from None
    if end <= begin:
        raise _bad("timespan", f"{text[:100]!r} must end a minute or more after it begins")
    return begin, end


def _minute(text: str) -> int:
    # A plus sign that was not escaped in the query is a space by now.
    moment = datetime.fromisoformat(text.strip().replace(" ", "+"))
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() // 60)


def _iso(minute: int) -> str:
    return datetime.fromtimestamp(minute * 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _bad(parameter: str, text: str) -> AzureError:
    return bad_request("BadRequest", f"`{parameter}`: {text}.", target=parameter)
