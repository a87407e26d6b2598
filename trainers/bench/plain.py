"""The loop that people write: timm's network, PIL transforms of torchvision, a DataLoader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from amlocal.trainers.bench.measuring import Window, window
from amlocal.trainers.layouts import Layout

_FEW_CORES = 4


class Files(Dataset[tuple[Tensor, int]]):
    """Opens, decodes and augments one image file at each access."""

    def __init__(
        self,
        paths: Sequence[Path],
        targets: Sequence[int],
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self._paths = list(paths)
        self._targets = list(targets)
        self._transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.4)], 0.5),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self._paths[index]) as image:
            return self._transform(image.convert("RGB")), self._targets[index]


def worker_counts(threads: int) -> tuple[int, ...]:
    """Numbers of DataLoader processes that a user of so many cores would try."""
    return (0, threads) if threads <= _FEW_CORES else (threads // 2, threads)


class Plain:
    """SGD on cross entropy, nothing else; the loss is not even read."""

    def __init__(
        self,
        name: str,
        architecture: str,
        options: dict[str, Any],
        files: Files,
        *,
        classes: int,
        batch: int,
        workers: int,
        device: torch.device,
        layout: Layout,
    ) -> None:
        self.name = name
        self.workers = workers
        self._device = device
        self._layout = layout
        model: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=classes, **options)
        self._model = model.to(memory_format=layout.memory_format).to(device)
        self._loader = DataLoader(
            files,
            batch_size=batch,
            shuffle=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            drop_last=True,
        )

    def window(self, seconds: float) -> Window:
        optimizer = torch.optim.SGD(
            self._model.parameters(), lr=1e-5, momentum=0.9, nesterov=True, weight_decay=1e-4
        )
        scaler = self._layout.scaler(self._device)
        self._model.train()

        def step(batch: tuple[Tensor, Tensor]) -> int:
            images = batch[0].to(self._device, non_blocking=True, memory_format=self._layout.memory_format)
            targets = batch[1].to(self._device, non_blocking=True)
            optimizer.zero_grad(set_to_none=True)
            with self._layout.autocast(self._device):
                outputs = self._model(images)
                loss = nn.functional.cross_entropy(outputs, targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return len(images)

        source = self._endless()
        try:
            return window(source, step, seconds, self._device)
        finally:
            # Ends the workers, which would else work on into the next one's time.
            source.close()

    def _endless(self) -> Any:
        def batches() -> Iterator[Any]:
            while True:
                yield from self._loader

        return batches()
