from __future__ import annotations

import json
from pathlib import Path

from amlocal.trainers.metric_log import Metric, MetricLog


def metric(step: int, value: float = 0.5) -> Metric:
    return Metric(key="accuracy", value=value, step=step, timestamp=1_700_000_000_000 + step)


def test_each_key_and_step_is_written_once_also_by_the_next_attempt(tmp_path: Path) -> None:
    path = tmp_path / "state" / "metrics.jsonl"
    first = MetricLog(path, fresh=True)
    assert first.append([metric(0), metric(1)]) == [metric(0), metric(1)]
    assert first.append([metric(1, 0.9)]) == []
    second = MetricLog(path, fresh=False)
    assert second.append([metric(0), metric(1), metric(2)]) == [metric(2)]
    assert [json.loads(line) for line in path.read_text().splitlines()] == [metric(0), metric(1), metric(2)]


def test_a_line_cut_off_by_a_kill_is_removed_and_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricLog(path, fresh=True).append([metric(0), metric(1)])
    path.write_bytes(path.read_bytes()[:-9])
    assert MetricLog(path, fresh=False).append([metric(0), metric(1)]) == [metric(1)]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1]


def test_a_first_attempt_starts_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricLog(path, fresh=True).append([metric(0)])
    MetricLog(path, fresh=True)
    assert path.read_text() == ""
