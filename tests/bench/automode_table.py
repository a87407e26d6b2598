"""AutoMode beside the default model alone and beside 10 random trials, in the same wall time, by the SDK.

    python tests/bench/automode_table.py --seeds 5 --budget 480 --images 80 \
        --sets digits,sign-digits,skewed --sign-digits FOLDER

Starts a server of its own, submits one job after the other, appends a row for each to a CSV file, and prints
the table of that file. Rows that are there are not measured again, so it can be stopped and started at will.
All networks start from random weights and see images of 64 pixels. The budget must let the default model end
and leave time for others. All takes at most seeds x sets x 3 x budget seconds, on a machine that does nothing
else; in half the time each arm has one core, and all that makes a machine slower for a while meets both:

    taskset -c 0 python tests/bench/automode_table.py ... --arms automode &
    taskset -c 1 python tests/bench/automode_table.py ... --arms random,default
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amlocal.emulator.jobs.engines import capacity
from amlocal.fixtures.datasets import jpeg, write_digits, write_mltable

CROP = 64
TRIALS = 10
POOL = ("mobilenetv2", "resnet18", "resnet34", "resnet50", "vits16r224", "vitb16r224")
"""What random trials draw their model from; AutoMode chooses among all that can be trained."""
ARMS: Mapping[str, str] = {
    "default": "the default model alone",
    "random": f"{TRIALS} random trials",
    "automode": f"AutoMode, at most {TRIALS} trials",
}
METRICS: Mapping[str, str] = {"digits": "accuracy", "sign-digits": "accuracy", "skewed": "norm_macro_recall"}
SKEWED = (150, 105, 75, 52, 36, 25, 17, 12, 8, 6)
"""Training images of the digits 0 to 9 in the skewed set, of which smaller sets have their share."""
VALIDATED = 100
"""Images that every set has to validate with: enough to tell scores of a few hundredths apart."""
_DIGITS = 10
_FEWEST = 3
COLUMNS = (
    "set",
    "images",
    "metric",
    "arm",
    "seed",
    "budget_s",
    "cores",
    "status",
    "score",
    "seconds",
    "trials",
    "model",
    "job",
)
_ALIKE = ("set", "images", "budget_s", "cores")
"""What rows of one line of the table have in common."""
ENDS = ("Completed", "Failed", "Canceled")
_FIXED = {
    "training_crop_size": CROP,
    "validation_crop_size": CROP,
    "validation_resize_size": CROP,
    "advanced_settings": json.dumps({"pretrained": False}),
}
_RATES, _EPOCHS, _BATCHES = (0.001, 0.1), [15, 30, 45], [16, 32, 64]


def skewed(images: int) -> list[int]:
    """How many training images of each digit a skewed set of at most so many has."""
    share = min(1.0, images / sum(SKEWED))
    return [max(_FEWEST, round(count * share)) for count in SKEWED]


def write_skewed(folder: Path, images: int) -> tuple[Path, Path]:
    """scikit-learn's digits, the later ones ever rarer; the training and the validation folder."""
    from sklearn.datasets import load_digits

    data = load_digits()
    shuffled = random.Random(7)
    rows: dict[str, list[dict[str, object]]] = {"train": [], "validation": []}
    for digit, count in enumerate(skewed(images)):
        found = [index for index, label in enumerate(data.target) if label == digit]
        chosen = shuffled.sample(found, count + VALIDATED // _DIGITS)
        for number, index in enumerate(chosen):
            part = "train" if number < count else "validation"
            image = folder / part / "images" / f"{digit}_{number:03d}.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(jpeg(data.images[index], CROP))
            rows[part].append({"image_url": f"images/{image.name}", "label": str(digit)})
    for some in rows.values():
        shuffled.shuffle(some)
    return write_mltable(folder / "train", rows["train"]), write_mltable(
        folder / "validation", rows["validation"]
    )


def write_signs(folder: Path, source: Path, images: int) -> tuple[Path, Path]:
    """MLTables of the first images of a folder with train.jsonl, validation.jsonl and their images."""
    found = []
    for part in ("train", "validation"):
        (folder / part / "images").mkdir(parents=True, exist_ok=True)
        lines = (source / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        del rows[images if part == "train" else VALIDATED :]
        for row in rows:
            image = Path(row["image_url"])
            (folder / part / "images" / image.name).write_bytes((source / image).read_bytes())
            row["image_url"] = f"images/{image.name}"
        found.append(write_mltable(folder / part, rows))
    return found[0], found[1]


def write_set(name: str, folder: Path, signs: Path | None, images: int) -> tuple[Path, Path]:
    """The training MLTable of a set, of at most so many images, and its validation MLTable. Raises SystemExit
    where the set's folder is not named."""
    if name == "digits":
        made = write_digits(folder, train=images, validation=VALIDATED, held_out=0, size=CROP)
        return made.train, made.validation
    if name == "skewed":
        return write_skewed(folder, images)
    if signs is None:
        raise SystemExit("--sign-digits: name the folder with train.jsonl, validation.jsonl and images")
    return write_signs(folder, signs, images)


def job_of(name: str, arm: str, data: tuple[Path, Path], metric: str, seed: int, minutes: int) -> Any:
    """The job of one arm."""
    from azure.ai.ml import Input, automl
    from azure.ai.ml.automl import SearchSpace
    from azure.ai.ml.sweep import Choice, LogUniform

    job = automl.image_classification(
        training_data=Input(type="mltable", path=str(data[0])),
        validation_data=Input(type="mltable", path=str(data[1])),
        target_column_name="label",
        primary_metric=metric,
        compute="cpu-cluster",
        experiment_name="automode-table",
    )
    job.name = name
    job.set_training_parameters(**_FIXED, random_seed=seed)
    job.set_limits(timeout_minutes=minutes, max_trials=1 if arm == "default" else TRIALS)
    if arm == "random":
        low, high = map(math.log, _RATES)
        space = SearchSpace(
            model_name=Choice(list(POOL)),
            learning_rate=LogUniform(low, high),
            number_of_epochs=Choice(_EPOCHS),
            training_batch_size=Choice(_BATCHES),
        )
        job.extend_search_space([space])
        job.set_sweep(sampling_algorithm="Random")
    return job


def measured(client: Any, job: Any) -> dict[str, Any]:
    """Run one job to its end: its state, score, seconds and trials."""
    started = time.monotonic()
    client.jobs.create_or_update(job)
    while (found := client.jobs.get(job.name)).status not in ENDS:
        time.sleep(2)
    seconds = time.monotonic() - started
    best = found.tags.get("automl_best_child_run_id")
    properties = client.jobs.get(best).properties if best else {}
    sweep = client.jobs.get(f"{job.name}_HD")
    return {
        "status": found.status,
        "score": properties.get("score", ""),
        "seconds": round(seconds, 1),
        "trials": sweep.tags.get("_aml_system_samples_generated_count", ""),
        "model": properties.get("run_algorithm", ""),
        "job": job.name,
    }


def read(path: Path) -> list[dict[str, str]]:
    """The rows of the CSV file; a half row at its end, of a run that was killed, is none."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["job"]]


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to the CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    new = not before
    with path.open("a", newline="", encoding="utf-8") as file:
        if before and not before.endswith("\n"):
            file.write("\n")
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def is_there(rows: Sequence[Mapping[str, str]], **wanted: Any) -> bool:
    """Whether a row has these values."""
    return any(all(row[key] == str(value) for key, value in wanted.items()) for row in rows)


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Markdown: mean and standard deviation of each arm's scores on each set, and whether AutoMode's mean is
    at least both others'. A job that ended without a score counts as 0."""
    lines = [
        f"| data set (metric) | images | limit | CPU cores | seeds | {' | '.join(ARMS.values())} "
        "| mean at least both |",
        f"|---|---:|---:|---:|---:|{'---:|' * len(ARMS)}---|",
    ]
    for which in dict.fromkeys(tuple(row[key] for key in _ALIKE) for row in rows):
        own = [row for row in rows if tuple(row[key] for key in _ALIKE) == which]
        seeds = set.intersection(*({row["seed"] for row in own if row["arm"] == arm} for arm in ARMS))
        if not seeds:
            continue
        means, cells = {}, []
        for arm in ARMS:
            some = [row for row in own if row["arm"] == arm and row["seed"] in seeds]
            scores = [float(row["score"] or 0) for row in some]
            means[arm] = statistics.mean(scores)
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            trials = statistics.mean(float(row["trials"] or 0) for row in some)
            count = "" if arm == "default" else f" ({trials:.1f} trials)"
            cells.append(f"{means[arm]:.3f} ± {spread:.3f}{count}")
        verdict = "yes" if all(means["automode"] >= mean for mean in means.values()) else "no"
        name, images, budget, cores = which
        told = [
            f"{name} ({own[0]['metric']})",
            images,
            f"{budget} s",
            cores,
            str(len(seeds)),
            *cells,
            verdict,
        ]
        lines.append(f"| {' | '.join(told)} |")
    low, high = _RATES
    return "\n".join(
        [
            *lines,
            "",
            f"Mean ± standard deviation over seeds; {CROP} pixels, random weights; images: to train "
            f"on, at most; {VALIDATED} to validate with. "
            f"Random trials draw model_name from {', '.join(POOL)}; "
            f"learning_rate from {low:g} to {high:g} (loguniform); number_of_epochs from "
            f"{', '.join(map(str, _EPOCHS))}; training_batch_size from {', '.join(map(str, _BATCHES))}. "
            "AutoMode chooses among all models that can be trained here.",
        ]
    )


def run(arguments: argparse.Namespace) -> None:
    """Measure what is not in the CSV file yet."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    client = MLClient(
        DefaultAzureCredential(),
        os.environ["AZURE_SUBSCRIPTION_ID"],
        os.environ["AZURE_RESOURCE_GROUP"],
        os.environ["AZUREML_WORKSPACE_NAME"],
        show_progress=False,
    )
    # Interrupted runs may have left jobs of the same name, and random trials are drawn by the job's name.
    taken = {job.name for job in client.jobs.list()}
    with tempfile.TemporaryDirectory() as folder:
        images, budget, cores = arguments.images, arguments.budget, capacity.cpus()
        data = {
            name: write_set(name, Path(folder) / name, arguments.sign_digits, images)
            for name in arguments.sets
        }
        for seed in range(1, arguments.seeds + 1):
            for name in arguments.sets:
                for arm in arguments.arms:
                    facts = {"set": name, "images": images, "arm": arm, "seed": seed, "budget_s": budget}
                    facts["cores"] = cores
                    if is_there(read(arguments.csv), **facts):
                        continue
                    stem = f"{name}-{images}-{arm}-{seed}-{budget}"
                    again = sum(one == stem or one.startswith(f"{stem}-again") for one in taken)
                    job_name = stem if not again else f"{stem}-again{again}"
                    job = job_of(job_name, arm, data[name], METRICS[name], seed, budget // 60)
                    row = {**facts, "metric": METRICS[name], **measured(client, job)}
                    append(arguments.csv, row)
                    print(json.dumps(row), flush=True)


def parsed(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="AutoMode beside the default model and random trials")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=480, help="seconds for each job, whole minutes")
    parser.add_argument("--images", type=int, default=80, help="training images, at most")
    parser.add_argument("--sets", default=",".join(METRICS), help=f"of {', '.join(METRICS)}")
    parser.add_argument("--arms", default=",".join(ARMS), help=f"of {', '.join(ARMS)}")
    parser.add_argument("--sign-digits", type=Path, help="folder with train.jsonl, validation.jsonl, images")
    parser.add_argument("--csv", type=Path, default=Path(__file__).parent / "results" / "automode.csv")
    parser.add_argument("--keep", type=Path, help="the server's data folder (default: one that is deleted)")
    parser.add_argument("--table", action="store_true", help="only print the table of the CSV file")
    arguments = parser.parse_args(given)
    arguments.sets, arguments.arms = arguments.sets.split(","), arguments.arms.split(",")
    for what, values, known in (("sets", arguments.sets, METRICS), ("arms", arguments.arms, ARMS)):
        if strange := sorted(set(values) - set(known)):
            parser.error(f"--{what}: {', '.join(strange)} is none of {', '.join(known)}")
    if not 40 <= arguments.images <= 1400:
        parser.error("--images: from 40 to 1400, as scikit-learn's digits are 1797")
    if arguments.budget < 60 or arguments.budget % 60:
        parser.error("--budget: whole minutes, as Azure's time limits are")
    return arguments


def main() -> int:
    arguments = parsed()
    if not arguments.table:
        if "AZUREML_WORKSPACE_NAME" not in os.environ:
            keep = ["--keep", str(arguments.keep)] if arguments.keep else []
            again = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:]]
            amlocal = [sys.executable, "-m", "amlocal.emulator.cli", "run", *keep, "--"]
            return subprocess.run([*amlocal, *again], check=False).returncode
        run(arguments)
    rows = read(arguments.csv)
    print(table(rows) if rows else f"nothing is measured in {arguments.csv} yet")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
