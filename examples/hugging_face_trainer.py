"""DAT in Hugging Face's Trainer: python examples/hugging_face_trainer.py cifar-f2-1024-fast   (pip install transformers)."""

import sys
from typing import Any

import torch
from transformers import Trainer, ViTConfig, ViTForImageClassification

import dat
from dat.data.embedded import digits


class DATTrainer(Trainer):
    """Of images in [0, 1] (an image processor with `do_normalize=False`), which `normalize` prepares for the network."""

    loss_is_scaled_for_ga = False  # a mean over its micro-batch: without this Trainer takes the sum of an accumulation

    def __init__(self, *args: Any, discretizer: dat.FrozenDiscretizer, alpha: float, normalize: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.discretizer, self.alpha, self.normalize = discretizer.to(self.args.device), alpha, normalize

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """The adversary climbs the loss of the model without its wrapper; evaluations see the images as they are."""
        images, labels, bare = inputs["pixel_values"], inputs["labels"], self.accelerator.unwrap_model(model)
        if model.training:
            loss_fn = lambda x: dat.cross_entropy(bare(self.normalize(x)).logits, labels)  # noqa: E731
            images = dat.discrete_adversary(images, loss_fn, self.discretizer, alpha=self.alpha)
        outputs = model(self.normalize(images))
        loss = dat.cross_entropy(outputs.logits, labels).mean()
        return (loss, outputs) if return_outputs else loss


if __name__ == "__main__":
    numbers = digits("train")
    images = torch.from_numpy(numbers.images).float() / 255
    pictures = [{"pixel_values": image, "labels": label} for image, label in zip(images, numbers.targets, strict=True)]
    sizes: dict[str, Any] = {"image_size": 8, "patch_size": 2, "num_labels": 10, "hidden_size": 48, "num_hidden_layers": 3}
    parts: dict[str, Any] = {"discretizer": dat.load_discretizer(sys.argv[1]), "alpha": 0.4, "normalize": lambda x: 2 * x - 1}
    DATTrainer(ViTForImageClassification(ViTConfig(**sizes)), train_dataset=pictures, **parts).train()
