"""The test sets of the literature: what was published, where it usually lies, and how a user gets it.

Facts only. Counts are there to be compared with what is on the disk; results count what is on the disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dat.data.corruptions.table import CORRUPTIONS

View = Literal["resize-crop", "crop", "native", "resize"]
Outputs = Literal["all", "a", "r"]
Layout = Literal["labelled", "variants", "corrupted", "objectnet", "laion-c", "arrays"]

CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_100_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish "
    "forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle "
    "mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine "
    "possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale "
    "willow_tree wolf woman worm"
)
CIFAR_100 = tuple(CIFAR_100_NAMES.split())
C_BAR = (
    "blue_noise_sample",
    "brownish_noise",
    "caustic_refraction",
    "checkerboard_cutout",
    "cocentric_sine_waves",
    "inverse_sparkles",
    "perlin_noise",
    "plasma_noise",
    "single_frequency_greyscale",
    "sparkles",
)
LAION_C = ("glitched", "mosaic", "stickers", "vertical_lines", "geometric_shapes", "luminance_checkerboard")
V2 = {
    "matched-frequency": ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency", "imagenetv2-b-33"),
    "threshold-0.7": ("imagenetv2-threshold0.7-format-val", "imagenetv2-threshold0.7", "imagenetv2-a-44"),
    "top-images": ("imagenetv2-top-images-format-val", "imagenetv2-top-images", "imagenetv2-c-12"),
}


@dataclass(frozen=True)
class Benchmark:
    """One test set.

    `folders`: names under ROOT that are looked for, in this order; case and `_` for `-` do not matter. `pictures` and
    `classes`: of each part, as published; None where that is not known, and a lower limit only where not `exact`. `view`:
    how a picture becomes what the model sees: "resize-crop" (as clean pictures), "crop" (centre crop, never resized: the
    pictures have that size already), "native" (as it is), "resize" (all of it, resized to a square). `outputs`: which
    outputs of a model count. `parts`: names of corruptions or variants. `own_classes`: classes that are not ImageNet's 1000.
    `recognised`: the layout tells the set, so ROOT itself may be it under any name. `size`: of the download.
    """

    title: str
    folders: tuple[str, ...]
    pictures: int | None
    classes: int
    citation: str
    licence: str
    size: str
    steps: tuple[str, ...]
    view: View = "resize-crop"
    outputs: Outputs = "all"
    layout: Layout = "labelled"
    parts: tuple[str, ...] = ()
    own_classes: tuple[str, ...] | None = None
    recognised: bool = False
    exact: bool = True
    remark: str = ""


HENDRYCKS_C = (
    "Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019"
)
OF_IMAGENET = "ImageNet's terms of access (non-commercial research and education)"
CIFAR_C_STEPS = (
    "Each corruption is one .npy file of 50,000 x 32 x 32 x 3, the severities one after another; labels.npy beside them."
)

BENCHMARKS: dict[str, Benchmark] = {
    "clean": Benchmark(
        title="ImageNet validation set",
        folders=("val", "validation", "imagenet/val", "imagenet-val", "ilsvrc2012-img-val", "ilsvrc2012/val", "test"),
        pictures=50_000,
        classes=1000,
        citation="Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015",
        licence=OF_IMAGENET,
        size="6.3 GB (ILSVRC2012_img_val.tar)",
        steps=(
            "Register at https://www.image-net.org/download.php and get ILSVRC2012_img_val.tar.",
            "Unpack it into ROOT/val: a folder per wnid, or all pictures right in it and val.txt (lines `name index`) beside.",
        ),
        remark="Any set with class folders, or with labels.csv, goes as `clean` for a model of its classes.",
    ),
    "damagenet": Benchmark(
        title="DAmageNet",
        folders=("damagenet",),
        pictures=50_000,
        classes=1000,
        citation="Chen et al., Universal Adversarial Attack on Attention and the Resulting Dataset DAmageNet, TPAMI 2020",
        licence="unknown",
        size="unknown",
        steps=(
            "Download from the page that https://github.com/Sizhe-Chen/DAmageNet names (pami.sjtu.edu.cn/Show/56/122).",
            "Put the pictures into ROOT/damagenet, with val.txt in it or beside it (lines `ILSVRC2012_val_00000001 65`).",
        ),
        view="crop",
    ),
    "a": Benchmark(
        title="ImageNet-A",
        folders=("imagenet-a",),
        pictures=7_500,
        classes=200,
        citation="Hendrycks et al., Natural Adversarial Examples, CVPR 2021 (arXiv:1907.07174)",
        licence="MIT (of the repository; for the pictures none is stated)",
        size="unknown",
        steps=(
            "Download the file that https://github.com/hendrycks/natural-adv-examples names (imagenet-a.tar).",
            "Unpack it into ROOT: ROOT/imagenet-a has 200 folders named by wnid.",
        ),
        outputs="a",
    ),
    "c": Benchmark(
        title="ImageNet-C",
        folders=("imagenet-c",),
        pictures=50_000,
        classes=1000,
        citation=HENDRYCKS_C,
        licence="unknown; of the pictures: ImageNet's terms",
        size="unknown",
        steps=(
            "Download noise.tar, blur.tar, weather.tar and digital.tar from https://zenodo.org/record/2235448.",
            "Unpack them into ROOT/imagenet-c: gaussian_noise/1/<wnid>, also below the folders noise, blur, weather, digital.",
        ),
        view="crop",
        layout="corrupted",
        parts=CORRUPTIONS,
        recognised=True,
    ),
    "c-bar": Benchmark(
        title="ImageNet-C-bar",
        folders=("imagenet-c-bar", "imagenetc-bar", "inc-bar"),
        pictures=50_000,
        classes=1000,
        citation="Mintun, Kirillov and Xie, On Interaction Between Augmentations and Corruptions in Natural Corruption "
        "Robustness, NeurIPS 2021",
        licence="MIT (of the repository; for the pictures none is stated)",
        size="unknown",
        steps=(
            "Download imagenet_c_bar.tar.gz, which https://github.com/facebookresearch/augmentation-corruption names.",
            "Unpack it into ROOT/imagenet-c-bar: blue_noise_sample/1/<wnid>.",
        ),
        view="crop",
        layout="corrupted",
        parts=C_BAR,
        recognised=True,
    ),
    "v2": Benchmark(
        title="ImageNet-V2",
        folders=("", "imagenetv2", "imagenet-v2"),
        pictures=10_000,
        classes=1000,
        citation="Recht et al., Do ImageNet Classifiers Generalize to ImageNet?, ICML 2019",
        licence="MIT (of the code; the pictures as those of ImageNet, from Flickr)",
        size="1.26 GB (matched-frequency), 1.25 GB (threshold-0.7), 1.25 GB (top-images)",
        steps=(
            "Download the .tar.gz of each variant from https://huggingface.co/datasets/vaishaal/ImageNetV2.",
            "Unpack them into ROOT: imagenetv2-matched-frequency-format-val and so on, with folders 0 to 999.",
        ),
        layout="variants",
        parts=tuple(V2),
    ),
    "r": Benchmark(
        title="ImageNet-R",
        folders=("imagenet-r",),
        pictures=30_000,
        classes=200,
        citation="Hendrycks et al., The Many Faces of Robustness, ICCV 2021 (arXiv:2006.16241)",
        licence="unknown",
        size="2.19 GB (imagenet-r.tar)",
        steps=(
            "Download the file that https://github.com/hendrycks/imagenet-r names (imagenet-r.tar).",
            "Unpack it into ROOT: ROOT/imagenet-r has 200 folders named by wnid.",
        ),
        outputs="r",
    ),
    "sketch": Benchmark(
        title="ImageNet-Sketch",
        folders=("sketch", "imagenet-sketch"),
        pictures=50_000,
        classes=1000,
        citation="Wang et al., Learning Robust Global Representations by Penalizing Local Predictive Power, NeurIPS 2019",
        licence="MIT (of the repository; for the pictures none is stated)",
        size="7.8 GB",
        steps=(
            "Download the file that https://github.com/HaohanWang/ImageNet-Sketch names.",
            "Unpack it into ROOT: ROOT/sketch has 1000 folders named by wnid.",
        ),
        exact=False,
        remark="The authors say 50 pictures of each class; there may be a few more.",
    ),
    "stylized": Benchmark(
        title="Stylized ImageNet (validation set)",
        folders=(
            "stylized",
            "stylized/val",
            "imagenet-style",
            "imagenet-style/val",
            "stylized-imagenet",
            "stylized-imagenet/val",
        ),
        pictures=50_000,
        classes=1000,
        citation="Geirhos et al., ImageNet-trained CNNs are biased towards texture, ICLR 2019 (arXiv:1811.12231)",
        licence="unknown; of the pictures: ImageNet's terms",
        size="134 GB as made with the training set; it is not offered for download",
        steps=(
            "Make it: https://github.com/rgeirhos/Stylized-ImageNet, from ImageNet and the paintings of painter-by-numbers.",
            "Put its validation part into ROOT/stylized: 1000 folders named by wnid.",
        ),
        view="crop",
    ),
    "objectnet": Benchmark(
        title="ObjectNet, the classes that are also ImageNet's",
        folders=("objectnet-1.0", "objectnet"),
        pictures=None,
        classes=113,
        citation="Barbu et al., ObjectNet: A large-scale bias-controlled dataset for pushing the limits of object recognition "
        "models, NeurIPS 2019",
        licence="CC BY 4.0 with two clauses: never to tune a model; pictures on the web only with their red border",
        size="unknown",
        steps=(
            "Download objectnet-1.0.zip from https://objectnet.dev/download.html; the page gives the password.",
            "Unpack it into ROOT: ROOT/objectnet-1.0 has the folders images and mappings.",
        ),
        layout="objectnet",
        recognised=True,
        remark="About 50,000 pictures of 313 classes in all. Two pixels are cut off on each side (the red border), before all "
        "else. All 1000 outputs count; one is right if the mapping gives it to the picture's class.",
    ),
    "laion-c": Benchmark(
        title="LAION-C",
        folders=("laion-c", "laionc"),
        pictures=None,
        classes=16,
        citation="Li et al., LAION-C: An Out-of-Distribution Benchmark for Web-Scale Vision Models, 2025",
        licence="unknown",
        size="unknown",
        steps=(
            "Download https://zenodo.org/records/14051887 and unpack it into ROOT/laion-c: glitched/intensity_level_1/bird.",
            "Put laionc/mappings/category_mapping.json of https://github.com/FanfeiLi/LAION-C into ROOT/laion-c.",
        ),
        view="resize",
        layout="laion-c",
        parts=LAION_C,
        recognised=True,
        remark="The output with the highest logit, among those of the 16 superclasses, decides; the authors' code takes the "
        "superclass with the highest mean probability, so numbers differ from theirs.",
    ),
    "cifar-10-c": Benchmark(
        title="CIFAR-10-C",
        folders=("cifar-10-c", "cifar10-c", "cifar10c"),
        pictures=10_000,
        classes=10,
        citation=HENDRYCKS_C,
        licence="unknown",
        size="2.9 GB (CIFAR-10-C.tar)",
        steps=("Download CIFAR-10-C.tar from https://zenodo.org/record/2535967 and unpack it into ROOT.", CIFAR_C_STEPS),
        view="native",
        layout="arrays",
        parts=CORRUPTIONS,
        own_classes=CIFAR_10,
    ),
    "cifar-100-c": Benchmark(
        title="CIFAR-100-C",
        folders=("cifar-100-c", "cifar100-c", "cifar100c"),
        pictures=10_000,
        classes=100,
        citation=HENDRYCKS_C,
        licence="unknown",
        size="unknown",
        steps=("Download CIFAR-100-C.tar from https://zenodo.org/record/3555552 and unpack it into ROOT.", CIFAR_C_STEPS),
        view="native",
        layout="arrays",
        parts=CORRUPTIONS,
        own_classes=CIFAR_100,
    ),
}
