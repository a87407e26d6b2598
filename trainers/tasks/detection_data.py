"""The two halves of an object detection or instance segmentation data set: pixels, objects, tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from amlocal.trainers import distributed, files
from amlocal.trainers.data import annotated, balance, cache, reading, samples
from amlocal.trainers.data.annotated import Annotated
from amlocal.trainers.data.images import ImageError, Pixels
from amlocal.trainers.data.objects import Objects, objects
from amlocal.trainers.data.samples import Dropped, Region
from amlocal.trainers.data.tiling import Grid, tiled
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.progress import warn
from amlocal.trainers.spec import Spec

SEGMENTATION = "image-instance-segmentation"

_UNKNOWN = (1, 1)
"""Size of an image that nobody has looked at yet: as good as square."""


@dataclass
class Half:
    """One half of the data. Its entries are images or, where there are tiles, each image and then its tiles.

    `sources` (file:line), `regions` (of a tile, None for an image) and `sizes` (height and width as `get`
    gives them; streamed images, which nobody has looked at, count as square) belong to the entries; `images`
    has the entries of each image, the whole first.
    """

    sources: list[str]
    regions: list[Region | None]
    sizes: list[tuple[int, int]]
    images: list[list[int]]
    store: cache.Store
    positions: list[int]
    shares: list[Objects]
    told: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.positions)

    def get(self, which: Sequence[int]) -> list[tuple[int, Pixels, Objects]]:
        """Those entries that can be read: which it is, its pixels (height, width, 3), perhaps read-only, and
        its objects in pixels. Others are named once in the log."""
        found = []
        answers = reading.read(self.store, [self.positions[index] for index in which])
        for index, answer in zip(which, answers, strict=True):
            if not isinstance(answer, ImageError):
                height, width = answer.shape[:2]
                found.append((index, answer, self.shares[index].moved((width, height))))
            elif self.sources[index] not in self.told:
                self.told.add(self.sources[index])
                warn(f"{self.sources[index]} is left out: {answer}")
        return found


@dataclass(frozen=True)
class Data:
    """Both halves and the class names, sorted; a class's place among them is its number."""

    labels: list[str]
    train: Half
    validation: Half


def read(spec: Spec, geometry: cache.Geometry, training_geometry: cache.Geometry | None = None) -> Data:
    """Read the manifests, split if need be, cut tiles, open the pixels as `geometry` sees them (those for
    training as `training_geometry` where it is given), and write down what was used and what was not.

    Training takes the tiles that show objects, validation all. Raises TrainingError when one half has no
    image left, or when there is nothing to learn.
    """
    train, held_out = _manifests(spec)
    labels = sorted({label for half in (train, held_out) for row in half for label in row.labels})
    if not any(row.labels for row in train):
        raise TrainingError("no training image has an object; there is nothing to learn")
    first_process = distributed.current().rank == 0
    if first_process:
        folder = spec.artifacts_dir / "train_artifacts"
        if spec.validation_manifest is None:
            annotated.write_split(folder, train, held_out)
        files.write_json(folder / "labels.json", labels)
    for text in balance.notices(train, held_out, advice=""):
        warn(text)
    if not any(row.labels for row in held_out):
        warn("no validation image has an object; the metrics are not defined there")
    grid = grid_of(spec)
    if grid is not None:
        train, held_out = tiled(train, grid, empty=False), tiled(held_out, grid, empty=True)
    dropped: list[Dropped] = []
    # Validation first: where room is short, training must not take all of it.
    validation = _half(spec, held_out, geometry, labels, "validation", dropped)
    training = _half(spec, train, training_geometry or geometry, labels, "training", dropped)
    if first_process:
        # Tiles of an image are left out together; an image is named once.
        once = list(dict.fromkeys(dropped))
        samples.report(spec.artifacts_dir / "outputs" / "data_report.json", spec.data_report, once)
    for half, noun in ((validation, "validation"), (training, "training")):
        if not len(half):
            first = f"; the first of them: {dropped[0].source}, {dropped[0].reason}" if dropped else ""
            raise TrainingError(f"no {noun} image is left, {len(dropped)} were left out{first}")
    return Data(labels, train=training, validation=validation)


def grid_of(spec: Spec) -> Grid | None:
    """The tiles that the trial asks for; instance segmentation has none (Azure's rule). Raises
    TrainingError."""
    text = spec.parameters.get("tile_grid_size")
    if text is None or spec.task == SEGMENTATION:
        return None
    return Grid.parse(str(text), float(spec.parameters["tile_overlap_ratio"]))


def _manifests(spec: Spec) -> tuple[list[Annotated], list[Annotated]]:
    polygons = spec.task == SEGMENTATION
    train = annotated.read_manifest(spec.train_manifest, polygons=polygons)
    if spec.validation_manifest is not None:
        return train, annotated.read_manifest(spec.validation_manifest, polygons=polygons)
    if len(train) == 1:
        # Azure's rule for these tasks.
        warn("there is one image only; it is used for training and for validation")
        return train, train
    return samples.split(train, spec.validation_data_size, spec.parameters["random_seed"])


def _half(
    spec: Spec,
    rows: Sequence[Annotated],
    geometry: cache.Geometry,
    labels: Sequence[str],
    noun: str,
    dropped: list[Dropped],
) -> Half:
    limit = None if spec.cache_max_gb is None else int(spec.cache_max_gb * 1e9)
    store, bad = cache.open_store(
        rows, geometry, spec.cache_dir / "images", noun, max_bytes=limit, stream=spec.stream
    )
    dropped += bad
    unreadable = {rows[i].path for i in store.dropped}
    positions = [i for i, row in enumerate(rows) if row.path not in unreadable]
    kept = [rows[i] for i in positions]
    images: list[list[int]] = []
    for entry, row in enumerate(kept):
        if row.region is None:
            images.append([])
        images[-1].append(entry)
    return Half(
        sources=[row.source for row in kept],
        regions=[row.region for row in kept],
        sizes=[_size(store, i) for i in positions],
        images=images,
        store=store,
        positions=positions,
        shares=[objects(row.annotations, labels, 1, 1, polygons=spec.task == SEGMENTATION) for row in kept],
    )


def _size(store: cache.Store, position: int) -> tuple[int, int]:
    if store.sizes is None:
        return _UNKNOWN
    height, width = store.sizes[position]
    return height, width
