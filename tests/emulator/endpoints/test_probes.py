"""Probes: grace, thresholds in a row, and the instance that leaves and comes back. The clock is a number."""

from __future__ import annotations

from amlocal.emulator.endpoints.probes import Answer, ProbeSettings, Watch


class Process:
    alive: Answer = "ok"
    ready: Answer = "failing"

    def watch(self, liveness: ProbeSettings, readiness: ProbeSettings) -> Watch:
        return Watch(
            liveness, readiness, 0.0, alive=lambda timeout: self.alive, ready=lambda timeout: self.ready
        )


def run(watch: Watch, until: float) -> list[tuple[float, str]]:
    """Tick whenever something is due; (time, what was told)."""
    told = []
    while watch.due <= until:
        now = watch.due
        text = watch.tick(now)
        if text:
            told.append((round(now, 1), text))
    return told


def test_a_long_initial_delay_is_no_wait() -> None:
    process = Process()
    long = ProbeSettings(initial_delay=2000, failure_threshold=10)
    watch = process.watch(long, long)
    assert run(watch, 1.0) == [] and not watch.ready
    process.ready = "ok"
    assert run(watch, 1.2) == [(1.1, "ready: requests are taken")]
    assert watch.ready


def test_failures_within_the_grace_do_not_count() -> None:
    process = Process()
    liveness = ProbeSettings(initial_delay=50, period=10, failure_threshold=3)
    process.ready, process.alive = "ok", "failing"
    watch = process.watch(liveness, ProbeSettings())
    run(watch, 69)
    assert not watch.dead  # asked at 50 and 60
    assert run(watch, 70) == [(70.0, "the liveness probe failed 3 times in a row")]
    assert watch.dead


def test_only_failures_in_a_row_count() -> None:
    process = Process()
    process.ready = "ok"
    watch = process.watch(ProbeSettings(initial_delay=0, period=1, failure_threshold=2), ProbeSettings())
    for second in range(1, 21):
        process.alive = "failing" if second % 2 else "ok"
        run(watch, second)
    assert not watch.dead


def test_an_instance_leaves_and_comes_back() -> None:
    process = Process()
    process.ready = "ok"
    readiness = ProbeSettings(initial_delay=0, period=5, success_threshold=2, failure_threshold=3)
    watch = process.watch(ProbeSettings(), readiness)
    assert run(watch, 5.0) == [(5.0, "ready: requests are taken")]
    process.ready = "failing"
    told = run(watch, 20.0)
    assert [when for when, _ in told] == [20.0] and "failed 3 times in a row" in told[0][1]
    assert not watch.ready and not watch.dead
    process.ready = "ok"
    assert run(watch, 25.0) == [] and not watch.ready
    assert run(watch, 30.0) == [(30.0, "ready: requests are taken")]


def test_what_cannot_load_is_told_apart() -> None:
    process = Process()
    process.ready = "broken"
    watch = process.watch(ProbeSettings(), ProbeSettings())
    run(watch, 0.3)
    assert watch.broken and not watch.ready


def test_settings_survive_json() -> None:
    settings = ProbeSettings(initial_delay=1.5, period=2, timeout=3, success_threshold=4, failure_threshold=5)
    assert ProbeSettings.from_json(settings.to_json()) == settings
    assert ProbeSettings.from_json(None) == ProbeSettings()
