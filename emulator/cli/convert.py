"""`amlocal convert coco|voc|jsonl IN OUT`: labelled images of other tools to what AutoML jobs read, and back.

  amlocal convert coco instances.json OUT --images DIR     a folder with MLTable, JSONL file, images/
  amlocal convert voc ANNOTATIONS OUT --images DIR         the same from Pascal VOC's XML files (boxes only)
  amlocal convert jsonl IN OUT.json                        an MLTable folder or JSONL file to one COCO file

Images are copied to OUT/images, so that the folder can be a job's training_data as it is. With --image-url
ADDRESS nothing is copied, and every row names ADDRESS/<file name>: for images that lie in a datastore
already. Objects and images that cannot be used are left out and named. OUT must not be there yet; it is
written whole or not at all. Nothing outside the folder of the images is read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from amlocal.compat.label_readers import DETECTION
from amlocal.emulator.cli import CommandError

BOXES, POLYGONS = "image-object-detection", "image-instance-segmentation"
_SHOWN = 20


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    formats = parser.add_subparsers(dest="format", required=True, metavar="coco|voc|jsonl")
    coco = formats.add_parser("coco", help="from a COCO file of instances")
    coco.add_argument("source", metavar="IN", help="the JSON file")
    coco.add_argument(
        "--task",
        choices=sorted(DETECTION, reverse=True),
        default=BOXES,
        help="what the data is for: boxes (the default) or polygons",
    )
    voc = formats.add_parser("voc", help="from a folder of Pascal VOC's XML files")
    voc.add_argument("source", metavar="IN", help="the folder with the XML files")
    for one in (coco, voc):
        one.add_argument("target", metavar="OUT", help="the new MLTable folder")
        one.add_argument(
            "--images",
            metavar="DIR",
            help="where the images are (default: beside IN; for VOC also JPEGImages beside its folder)",
        )
        one.add_argument(
            "--image-url",
            metavar="ADDRESS",
            help="copy no images; rows name them as ADDRESS/<file name>, for example "
            "azureml://datastores/workspaceblobstore/paths/fridge",
        )
    jsonl = formats.add_parser("jsonl", help="from an MLTable folder or a JSONL file to COCO")
    jsonl.add_argument("source", metavar="IN", help="the MLTable folder or JSONL file")
    jsonl.add_argument("target", metavar="OUT", help="the new JSON file")
    jsonl.add_argument("--label-column", default="label", metavar="NAME", help="where the labels are")


def main(options: argparse.Namespace) -> int:
    from amlocal.emulator.cli import convert_coco, convert_jsonl, convert_set, convert_voc

    source, target = Path(options.source), Path(options.target)
    if target.exists() or target.is_symlink():
        raise CommandError(f"{target} is there already; name a new one, or remove it first.")
    if options.format == "jsonl":
        done = convert_jsonl.convert(source, target, label_column=options.label_column)
    else:
        polygons = options.format == "coco" and options.task == POLYGONS
        if options.format == "coco":
            pictures = convert_coco.read(source, polygons=polygons)
        else:
            pictures = convert_voc.read(source)
        images = Path(options.images) if options.images else _images(options.format, source)
        done = convert_set.write(pictures, images, target, options.image_url)
    for text in done.left_out[:_SHOWN]:
        print(f"left out: {text}", file=sys.stderr)
    if len(done.left_out) > _SHOWN:
        print(f"left out: {len(done.left_out) - _SHOWN} more", file=sys.stderr)
    print(f"{target}: {done.images} images, {done.objects} objects, {done.classes} classes")
    return 0


def _images(kind: str, source: Path) -> Path:
    if kind == "coco":
        return source.parent
    beside = source.parent / "JPEGImages"
    return beside if beside.is_dir() else source
