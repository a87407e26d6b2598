"""What a run of the bench says: rows of a CSV file, and a table for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Row:
    """One network at one batch size on one machine. Rates are images per second (`_per_s`), times are
    milliseconds per image (`_ms`) or seconds (`_s`); None = not measured here."""

    device: str
    torch: str
    model: str
    batch: int
    image_size: int
    dtype: str
    layout: str
    threads: int
    images: str
    end_to_end_per_s: float
    model_only_per_s: float
    decode_ms: float
    augment_ms: float
    expected_per_s: float | None
    plain_fp32_per_s: float
    plain_fp32_workers: int
    plain_same_dtype_per_s: float | None
    plain_same_dtype_workers: int | None
    end_to_end_by_model_only: float
    end_to_end_by_expected: float | None
    end_to_end_by_plain_fp32: float
    end_to_end_by_plain_same_dtype: float | None
    largest_spread: float
    second_trial_first_batch_s: float | None
    second_trial_first_step_s: float | None
    task: str
    plain: str
    spread_by_model_only: float
    spread_by_plain_fp32: float
    spread_by_plain_same_dtype: float | None


COLUMNS = tuple(field.name for field in fields(Row))


def expected(model_only: float, augment_seconds: float) -> float:
    """Images per second when preparing an image, decoded before, and training on it take turns on the same
    cores."""
    return 1.0 / (1.0 / model_only + augment_seconds)


def as_csv(rows: Sequence[Row]) -> str:
    """A header and a line per row; nothing where there is no value."""
    target = io.StringIO()
    writer = csv.DictWriter(target, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in asdict(row).items()})
    return target.getvalue()


def _cell(value: object) -> object:
    return f"{value:.5g}" if isinstance(value, float) else value


def table(rows: Sequence[Row]) -> str:
    """For people: images per second, then what end to end is of each other figure."""
    first = rows[0]
    cells = [
        [
            *("model", "batch", "px", "computed in", "end to end", "model only", "plain fp32", "plain same"),
            *("of model", "of expected", "x fp32", "x same", "2nd trial"),
        ]
    ]
    for row in rows:
        second = row.second_trial_first_batch_s
        cells.append(
            [
                row.model,
                str(row.batch),
                str(row.image_size),
                f"{row.dtype} {row.layout}",
                _rate(row.end_to_end_per_s),
                _rate(row.model_only_per_s),
                _rate(row.plain_fp32_per_s),
                "" if row.plain_same_dtype_per_s is None else _rate(row.plain_same_dtype_per_s),
                f"{row.end_to_end_by_model_only:.0%}",
                "" if row.end_to_end_by_expected is None else f"{row.end_to_end_by_expected:.0%}",
                _ratio(row.end_to_end_by_plain_fp32, row.spread_by_plain_fp32),
                _ratio(row.end_to_end_by_plain_same_dtype, row.spread_by_plain_same_dtype),
                "" if second is None else f"{second:.2f} s",
            ]
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    left = {0, 3}
    lines = [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    title = f"{first.device}, {first.threads} CPU threads, PyTorch {first.torch}; {first.images}"
    return "\n".join([title, "", *lines, "", *_legend(rows)])


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _ratio(value: float | None, spread: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if spread is None else f"{value:.2f} ±{spread * value / 2:.2f}"


_PLAIN = {
    "timm": "timm's network, torchvision's transforms, a DataLoader",
    "torchvision": "of detectors: torchvision's own network and the loop of its documentation, a DataLoader",
    "yolo": "of yolov5: ultralytics' own trainer, with its own augmentation",
}


def _legend(rows: Sequence[Row]) -> list[str]:
    decode = max(row.decode_ms for row in rows)
    augment = max(row.augment_ms for row in rows)
    counts = {n for row in rows for n in (row.plain_fp32_workers, row.plain_same_dtype_workers)}
    workers = sorted(count for count in counts if count is not None)
    loops = "; ".join(dict.fromkeys(_PLAIN.get(row.plain, row.plain) for row in rows))
    lines = [
        "Images per second, medians; windows of one figure lie up to "
        f"{max(row.largest_spread for row in rows):.0%} apart.",
        "end to end   from image files through the real loop, decoded once before",
        "model only   training steps on batches that lie on the device",
        f"plain        {loops} (fastest with {' or '.join(map(str, workers))} processes), in fp32 and "
        "computed as ours; ± half of how far its ratios lie apart from round to round",
        f"data         {decode:.2f} ms to decode an image, once; {augment:.2f} ms to augment it, every epoch",
    ]
    if any(row.expected_per_s is not None for row in rows):
        lines.append("expected     model only and augmenting in turns on the same cores")
    steps = [row for row in rows if row.second_trial_first_step_s is not None]
    if steps:
        told = ", ".join(f"{row.model} {row.second_trial_first_step_s:.2f} s" for row in steps)
        lines.append(
            "2nd trial    from reading the spec to the first batch, less building the network; to the end of "
            f"the first step: {told}"
        )
    return lines
