"""Pictures with boxes of a recipe: where they are, how large they are shown, and what is done to those of the training."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field

from dat.boxes import Boxes
from dat.data.annotated import AnnotatedPictures
from dat.data.annotations import open_annotated
from dat.data.boxed import BoxedDataset, JitterCropFlip, Letterbox, left_out, unfindable
from dat.progress import warn
from dat.recipe.data import LARGEST, NoAugment
from dat.recipe.place import Place
from dat.recipe.strict import Strict
from dat.types import Images

Side = Annotated[int, Field(ge=1, le=LARGEST)]


class JitterAugment(Strict):
    """Mirrored with probability `flip`, resized to `scale` times what fits into the frame, cropped or padded."""

    kind: Literal["jitter"] = "jitter"
    scale: tuple[float, float] = (0.75, 1.5)
    flip: float = 0.5


class BoxesData(Strict):
    """Annotation files of COCO's format, or YOLO's sets (`data.yaml`, or a folder).

    `size`: height and width of the frame that pictures are fitted into. `train_pictures`, `test_pictures`: the folders of the
    pictures of COCO's files, where they are in no usual place. `train_split`, `test_split`: which parts of YOLO's sets.
    """

    source: Literal["boxes"] = "boxes"
    train: Place
    test: Place
    train_pictures: str | None = None
    test_pictures: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    size: tuple[Side, Side]
    augment: Annotated[JitterAugment | NoAugment, Field(discriminator="kind")] = JitterAugment()


@dataclasses.dataclass(frozen=True, eq=False)
class BoxedData:
    """Training pictures in their frame, and test pictures as they are in their files."""

    train: BoxedDataset
    test: AnnotatedPictures
    frame: Letterbox

    @property
    def classes(self) -> tuple[str, ...]:
        """Kinds of things."""
        return self.test.classes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frame."""
        return self.frame.height, self.frame.width

    @property
    def fingerprint(self) -> str:
        """Of the test pictures, with what is in them."""
        return self.test.fingerprint()[:12]

    def facts(self, source: str) -> dict[str, Any]:
        """What `run.json` says of them."""
        return {
            "name": source,
            "train_images": len(self.train),
            "test_images": len(self.test),
            "train_boxes": sum(map(len, self.train.source.things)),
            "test_boxes": sum(map(len, self.test.things)),
            "classes": len(self.classes),
            "image_size": list(self.size),
        }

    def seeded(self, seed: int) -> BoxedData:
        """The same pictures, augmented by the random numbers of another seed."""
        return dataclasses.replace(self, train=BoxedDataset(self.train.source, self.train.transform, seed=seed))

    def example(self) -> tuple[Images, Boxes]:
        """One training picture as it is trained on, with its boxes."""
        images, boxes, _ = self.train.__getitems__([(0, 0)])
        return images, boxes


def build_boxes(section: BoxesData, *, seed: int) -> BoxedData:
    """Open the data of a recipe; nothing is written beside them.

    What is left out of the training, and what no detector can find in the test pictures, is said.

    Raises:
        DataError: a file is missing or has a fault, or training and test categories differ.
    """
    train = open_annotated(section.train, pictures=section.train_pictures, split=section.train_split)
    test = open_annotated(section.test, pictures=section.test_pictures, split=section.test_split, classes=train.classes)
    for said in filter(None, (left_out(train), unfindable(test))):
        warn(said)
    frame = Letterbox(*section.size)
    return BoxedData(BoxedDataset(train, augmentation(section, frame), seed=seed), test, frame)


def augmentation(section: BoxesData, frame: Letterbox) -> Letterbox | JitterCropFlip:
    """What is done to training pictures."""
    if isinstance(section.augment, NoAugment):
        return frame
    return JitterCropFlip(frame.height, frame.width, section.augment.scale, section.augment.flip)
