"""RT-DETR, RT-DETR v2 and D-FINE of transformers, an optional package, with one loss per image and boxes in pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert, clip_boxes_to_image

from dat.boxes import Boxes, Found
from dat.errors import CheckpointError, UsageError
from dat.installed import is_installed
from dat.nn.detectors import DetectionLosses, check_things, in_mode, in_our_labels, in_two_parts
from dat.types import Images

NETWORKS = {"rt_detr": "RTDetr", "rt_detr_v2": "RTDetrV2", "d_fine": "DFine"}
"""Kinds, as a `config.json` calls them, and how the names of their classes begin."""
PACKAGE, EXTRA = "transformers", "discrete-adversarial-training[transformers]"
CONFIG = "config.json"
PREFIX = "transformers:"
"""Before the folder of such a detector, in a recipe."""
OF_LOSS = {
    "logits": "logits",
    "pred_boxes": "pred_boxes",
    "outputs_class": "intermediate_logits",
    "outputs_coord": "intermediate_reference_points",
    "enc_topk_logits": "enc_topk_logits",
    "enc_topk_bboxes": "enc_topk_bboxes",
    "predicted_corners": "intermediate_predicted_corners",
    "initial_reference_points": "initial_reference_points",
}
"""Arguments of transformers' losses, and the outputs that they are; RT-DETR has not all."""


class TransformersDetector(nn.Module):
    """A detector of transformers that takes a batch of images of one size, and says its losses image by image.

    `network` is one of `RTDetrForObjectDetection`, `RTDetrV2ForObjectDetection` and `DFineForObjectDetection`; image processors
    have no part in it. The published ones want images in [0, 1] as they are (`Normalized` by mean 0 and deviation 1). `theirs`
    are the network's labels of our classes 0, 1, ...; what it finds with another label is left out.

    The loss of an image is what the network's own formula gives for that image alone, one pass for all; that of a batch would
    weigh images by their boxes. It is the same in eval mode, where D-FINE by itself leaves out all layers but the last. There
    are no denoising queries, which are made of the right boxes and of torch's global stream: nothing is drawn.

    Raises:
        UsageError: another kind of network.
    """

    theirs: Tensor

    def __init__(self, network: nn.Module, *, theirs: Sequence[int] | None = None) -> None:
        super().__init__()
        self.network: Any = _known(network)
        self.network.config.anchor_image_size = None  # anchors of another size than the images'
        for part in network.modules():
            if hasattr(part, "eval_size"):
                cast(Any, part).eval_size = None  # with one, there are no positions in eval mode
            if hasattr(part, "denoising_class_embed"):
                cast(nn.Module, part.denoising_class_embed).requires_grad_(False)
        labels = range(self.network.config.num_labels) if theirs is None else theirs
        self.register_buffer("theirs", torch.tensor([*labels]), persistent=False)

    def forward(self, images: Images, boxes: Boxes | None = None) -> list[Found] | DetectionLosses:
        """What is found in each image; or, given what there is, the losses.

        Raises:
            UsageError: images of a size that its strides do not divide; as `check_things`; or more boxes in an image than it
                has queries.
        """
        self._check(images, boxes)
        with in_mode([self.network.model.decoder], training=boxes is not None):
            outputs = self.network(images)
        if boxes is None:
            return self._found(outputs, images)
        return in_two_parts(self._losses(outputs, boxes, row, images) for row in range(len(images)))

    @property
    def most_things(self) -> int:
        """So many can be found in an image."""
        return self.network.config.num_queries

    def _losses(self, outputs: Any, boxes: Boxes, row: int, images: Images) -> Mapping[str, Tensor]:
        """In float32."""
        corners, labels = boxes.of_image(row)
        places = box_convert(corners, "xyxy", "cxcywh") / _sides(images)
        target = {"class_labels": self.theirs[labels], "boxes": places}
        given = {name: getattr(outputs, output) for name, output in OF_LOSS.items()}
        own = {name: tensor[row : row + 1].float() for name, tensor in given.items() if tensor is not None}
        return self.network.loss_function(labels=[target], device=images.device, config=self.network.config, **own)[1]

    def _found(self, outputs: Any, images: Images) -> list[Found]:
        """So many pairs of query and class as there are queries, the surest first."""
        scores = outputs.logits.float().sigmoid()
        queries, classes = scores.shape[1:]
        best, order = scores.flatten(1).topk(queries, dim=1)
        height, width = images.shape[-2:]
        found = []
        for row, places in enumerate(box_convert(outputs.pred_boxes.float(), "cxcywh", "xyxy") * _sides(images)):
            corners = clip_boxes_to_image(places[order[row] // classes], (height, width))
            found.append(in_our_labels(corners, best[row], order[row] % classes, self.theirs))
        return found

    def _check(self, images: Images, boxes: Boxes | None) -> None:
        height, width = images.shape[-2:]
        if height % (stride := max(self.network.config.feat_strides)) or width % stride:
            raise UsageError(f"Images are {width} x {height} pixels, but this detector takes multiples of {stride} only.")
        if boxes is None:
            return
        check_things(boxes, images, len(self.theirs))
        if (most := int(boxes.valid.sum(dim=1).max())) > self.most_things:
            raise UsageError(
                f"An image has {most} things, but this detector finds {self.most_things} at most (num_queries); "
                "leave out the picture, or build one with more queries."
            )


def from_folder(folder: str, *, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The network that a `config.json` describes, for other classes, with random weights (from torch's global stream).

    `options` are keys of it, e.g. `num_queries`.

    Raises:
        UsageError: there is no such file, it describes another network, or the package is not installed.
    """
    config, kind = _config(folder)
    if unknown := [name for name in options if not hasattr(config, name)]:
        raise UsageError(f"{folder}/config.json has no {unknown[0]}; options are keys of it.")
    for name, value in {**options, "num_labels": num_classes, "num_denoising": 0}.items():
        setattr(config, name, value)
    return _once(kind(config))


def tensors_of_folder(folder: str) -> dict[str, Tensor]:
    """The weights of a folder with `config.json` and `model.safetensors`, under the names of this version's networks.

    Only safetensors are read.

    Raises:
        UsageError: as `from_folder`.
        CheckpointError: there are no safetensors, they are damaged, or tensors are missing or of another shape.
    """
    config, kind = _config(folder)
    try:
        with torch.random.fork_rng(devices=[]):
            network, told = kind.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # of the file system, of safetensors, of torch, as it comes
        raise CheckpointError(f"{folder} holds no safetensors of this network ({str(error).splitlines()[0]}).") from error
    for kind_of_fault in ("missing_keys", "unexpected_keys"):
        if keys := sorted(told[kind_of_fault]):
            what = kind_of_fault.replace("_", " ")
            raise CheckpointError(
                f"The tensors of {folder} are not those of this network: {len(keys)} {what} ({keys[0]}, ...)."
            )
    return {name: tensor for name, tensor in _once(network).state_dict().items() if "denoising" not in name}


def _config(folder: str) -> tuple[Any, Any]:
    """Of a folder, and the class of its networks."""
    if not is_installed(PACKAGE):
        raise UsageError(f"transformers is not installed, which {PREFIX}{folder} needs; run pip install '{EXTRA}'.")
    if not (Path(folder) / CONFIG).is_file():
        raise UsageError(
            f"There is no {folder}/config.json; get one, e.g. by hf download PekingU/rtdetr_r18vd --local-dir rtdetr, "
            f"and write {PREFIX}rtdetr."
        )
    package: Any = import_module(PACKAGE)
    try:
        config = package.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder}/config.json is no description of a network ({str(error).splitlines()[0]}).") from error
    if config.model_type not in NETWORKS:
        raise UsageError(
            f"{folder} holds a {config.model_type}; take one of {', '.join(NETWORKS)}, whose losses are known here."
        )
    return config, getattr(package, f"{NETWORKS[config.model_type]}ForObjectDetection")


def _once(network: Any) -> nn.Module:
    """D-FINE names its heads twice, and uses those of the decoder."""
    for name in ("class_embed", "bbox_embed"):
        if hasattr(network, name):
            delattr(network, name)
    return network


def _known(network: nn.Module) -> nn.Module:
    names = [f"{start}ForObjectDetection" for start in NETWORKS.values()]
    if type(network).__name__ not in names:
        raise UsageError(
            f"{type(network).__name__} has no losses that are known here; give one of transformers' {', '.join(names)}."
        )
    return network


def _sides(images: Images) -> Tensor:
    height, width = images.shape[-2:]
    return torch.tensor([width, height, width, height], device=images.device)
