"""Corruptions against what the original implementation gave, and the laws that all of them obey."""

import io
import json
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor

from dat.data.corruptions import blur, digital, noise, spatter, weather
from dat.data.corruptions.draws import Draws, streams_of
from dat.data.corruptions.severities import (
    CIFAR,
    IMAGENET,
    NATIVE_SIDES,
    PARAMETER_SETS,
    TINY_IMAGENET,
    check_parameter_set,
    parameter_set,
)
from dat.data.corruptions.table import (
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    FIXED,
    RANDOM,
    _check_images,
    corrupt,
    corruption_protocol,
)
from dat.errors import UsageError

ALL = (*CORRUPTIONS, *EXTRA_CORRUPTIONS)
NATIVE = {"imagenet": "clean224_0.png", "cifar": "clean32.png"}

Golden = Callable[[str], Path]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def textures(shared_data: Path) -> list[np.ndarray]:
    with zipfile.ZipFile(shared_data / "imagenet_c_frost.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("frost"))
        assert len(names) == 6
        return [np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]


def pictures(count: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    """Smooth random pictures with some exactly black and white areas."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator) * 1.6 - 0.3
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    return (smooth.clamp(0, 1) * 255).round() / 255


def read(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float() / 255


def as_levels(images: Tensor) -> Tensor:
    return (images * 255).round()


def stored_outputs(folder: Path) -> list[tuple[str, str, int, str, np.ndarray, slice]]:
    """Parameter set, name, severity, rest of the name, output, and the rows and columns it covers."""
    rows = []
    for key, output in np.load(folder / "full32.npz").items():
        _, name, severity, *rest = key.split(".")
        rows.append(("cifar", name, int(severity), "".join(rest), output, slice(None)))
    for path in sorted([*folder.glob("full224_0.*.png"), *folder.glob("center112_0.*.png")]):
        part, name, severity, *rest = path.stem.split(".")
        place = slice(56, 168) if part.startswith("center") else slice(None)
        rows.append(("imagenet", name, int(severity), "".join(rest), np.array(Image.open(path)), place))
    return rows


@pytest.mark.shared
def test_deterministic_corruptions_equal_the_original(golden: Golden):
    folder = golden("imagenet_c")
    compared = 0
    for kind, name, severity, angle, output, place in stored_outputs(folder):
        clean = read(folder / NATIVE[kind])
        expected = torch.from_numpy(output).permute(2, 0, 1)[None].float()
        if name == "motion_blur":
            radius, sigma = (IMAGENET if kind == "imagenet" else CIFAR)[name][severity - 1]
            angles = torch.tensor([float(angle.removeprefix("angle"))], dtype=torch.float64)
            levels = as_levels(clean)
            ours = blur.magick_motion_blur(levels, angles, radius=radius, sigma=sigma).float()
        else:
            ours = as_levels(corrupt(clean, name, severity, ids=torch.tensor([0])))
        difference = (ours[..., place, place] - expected).abs()
        assert difference.max() <= (2 if name == "jpeg_compression" else 1), (kind, name, severity)
        assert (difference > 0).float().mean() < 0.05, (kind, name, severity)
        compared += 1
    assert compared == 42 + 25


@pytest.mark.shared
@pytest.mark.parametrize("name", RANDOM)
def test_random_corruptions_have_the_statistics_of_the_original(name: str, golden: Golden, textures: list[np.ndarray]):
    folder = golden("imagenet_c")
    stored = json.loads((folder / "stats.json").read_text())
    for kind, severities, seeds in (("cifar", (1, 2, 3, 4, 5), 64), ("imagenet", (2, 5), 6)):
        clean = read(folder / NATIVE[kind])
        for severity in severities:
            row = stored[f"{kind}.{name}.{severity}.img0"]
            ids = torch.arange(seeds)
            images = clean.expand(seeds, -1, -1, -1)
            ours = as_levels(corrupt(images, name, severity, ids=ids, frost_textures=textures)).double()
            measured = {
                "mean": ours.mean((2, 3)),
                "std": ours.std((2, 3), correction=0),
                "mad": (ours - as_levels(clean)).abs().mean((1, 2, 3)),
            }
            for key, values in measured.items():
                expected = torch.tensor(row[key], dtype=torch.float64)
                spread = torch.maximum(values.std(0), torch.tensor(row[f"{key}_over_seeds_std"], dtype=torch.float64))
                limit = 4.5 * spread * (1 / seeds + 1 / row["seeds"]) ** 0.5 + 0.05
                assert ((values.mean(0) - expected).abs() <= limit).all(), (kind, severity, key, values.mean(0), expected)


def test_the_tables_name_every_corruption_with_five_severities():
    assert len(CORRUPTIONS) == 15
    assert len(EXTRA_CORRUPTIONS) == 4
    assert {*FIXED, *RANDOM} == set(ALL)
    assert not FIXED.keys() & RANDOM.keys()
    assert PARAMETER_SETS.keys() == NATIVE_SIDES.keys()
    for table in (IMAGENET, TINY_IMAGENET, CIFAR):
        assert set(table) == set(ALL)
        assert {len(severities) for severities in table.values()} == {5}


def test_a_size_has_the_constants_of_the_nearest_published_one():
    named = {side: parameter_set(side, 300) for side in (8, 32, 45, 46, 64, 96, 119, 120, 128, 224, 512)}
    names = list(dict.fromkeys(named.values()))
    assert names == ["cifar-10-c", "tiny-imagenet-c", "imagenet-c"]
    assert [[side for side in named if named[side] == name] for name in names] == [
        [8, 32, 45],
        [46, 64, 96, 119],
        [120, 128, 224, 512],
    ]


def test_pictures_of_64_pixels_have_the_constants_of_tiny_imagenet():
    images, ids = pictures(2, 64, 64), torch.arange(2)
    disk = np.array([[0.0, 1, 1, 1, 0], *[[1.0] * 5] * 3, [0.0, 1, 1, 1, 0]]) / 21  # radius 2.5: all but the four corners
    expected = ndimage.correlate(as_levels(images).double().numpy(), disk[None, None], mode="mirror")
    assert np.abs(as_levels(corrupt(images, "defocus_blur", 4, ids=ids)).numpy() - expected).max() <= 1 + 1e-6
    for image, result in zip(as_levels(images), as_levels(corrupt(images, "jpeg_compression", 5, ids=ids)), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image.byte().permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=25)
        assert np.array_equal(result.permute(1, 2, 0).numpy(), np.asarray(Image.open(buffer)))
    grey = torch.full((2, 3, 64, 64), 128 / 255)
    assert corrupt(grey, "gaussian_noise", 3, ids=ids).std() == pytest.approx(0.12, abs=0.003)
    assert (corrupt(grey, "impulse_noise", 5, ids=ids) != grey).float().mean() == pytest.approx(0.14, abs=0.01)


def test_a_set_of_constants_can_be_named():
    images, ids = pictures(1, 64, 64), torch.arange(1)
    chosen = {name: corrupt(images, "defocus_blur", 5, ids=ids, parameters=name) for name in PARAMETER_SETS}
    error = {name: (result - images).square().mean().item() for name, result in chosen.items()}
    assert torch.equal(chosen["tiny-imagenet-c"], corrupt(images, "defocus_blur", 5, ids=ids))
    assert error["cifar-10-c"] < error["tiny-imagenet-c"] < error["imagenet-c"]
    assert corruption_protocol(64, 64, None, "imagenet-c")["corruption_parameters"] == "imagenet-c"
    with pytest.raises(UsageError, match="'imagenet'; write one of cifar-10-c, tiny-imagenet-c, imagenet-c"):
        check_parameter_set("imagenet")


def test_frost_for_64_pixels_reduces_its_texture_as_opencv_does():
    texture = np.random.default_rng(0).integers(0, 256, (240, 230, 3), dtype=np.uint8)
    reduced = weather._reduced(torch.from_numpy(texture).permute(2, 0, 1), 10 / 3)
    assert reduced.shape == (3, 72, 69)
    for row, column in ((0, 0), (1, 5), (40, 33), (71, 68)):
        down, right = (row + 0.5) / 0.3 - 0.5, (column + 0.5) / 0.3 - 0.5
        expected = ndimage.map_coordinates(texture[..., 1].astype(float), [[down], [right]], order=1)
        assert abs(int(reduced[1, row, column]) - expected[0]) <= 0.5 + 1e-9


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 70)])
def test_an_image_gives_the_same_bits_alone_and_in_any_batch(name: str, height: int, width: int):
    images, ids = pictures(5, height, width), torch.tensor([7, 3, 0, 11, 4])
    for severity in (2, 5):
        together = corrupt(images, name, severity, ids=ids, seed=3)
        for index in (0, 4):
            alone = corrupt(images[index : index + 1], name, severity, ids=ids[index : index + 1], seed=3)
            assert torch.equal(together[index], alone[0]), severity


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_batch_of_many_pieces_equals_its_parts(name: str):
    images, ids = pictures(200, 32, 32), torch.arange(200)
    whole = corrupt(images, name, 3, ids=ids)
    assert torch.equal(whole[130:170], corrupt(images[130:170], name, 3, ids=ids[130:170]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ALL)
def test_a_gpu_gives_the_same_images_but_for_single_levels(name: str):
    images, ids = pictures(4, 96, 96), torch.arange(4)
    for severity in (1, 5):
        expected = as_levels(corrupt(images, name, severity, ids=ids))
        difference = (as_levels(corrupt(images.cuda(), name, severity, ids=ids)).cpu() - expected).abs()
        assert (difference <= 1).float().mean() > 0.999, severity
        assert (difference == 0).float().mean() > 0.99, severity


@pytest.mark.parametrize("name", RANDOM)
def test_seed_and_id_change_what_is_drawn(name: str):
    image = pictures(1, 32, 32).expand(2, -1, -1, -1)
    first = corrupt(image, name, 4, ids=torch.tensor([0, 1]))
    assert torch.equal(first, corrupt(image, name, 4, ids=torch.tensor([0, 1])))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, corrupt(image, name, 4, ids=torch.tensor([0, 1]), seed=1))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 13), (33, 20), (64, 65), (100, 64)])
def test_any_size_gives_levels_in_range_and_changes_something(name: str, height: int, width: int):
    images = pictures(2, height, width)
    result = corrupt(images, name, 5, ids=torch.arange(2))
    assert result.shape == images.shape
    assert result.dtype == images.dtype
    assert 0 <= result.min() <= result.max() <= 1
    assert torch.equal(result, as_levels(result) / 255)
    assert not torch.equal(result, images) or name == "spatter"


@pytest.mark.parametrize("name", ALL)
def test_black_and_white_images_stay_finite(name: str):
    images = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    for severity in (1, 5):
        assert corrupt(images, name, severity, ids=torch.arange(2)).isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_severities_differ(name: str):
    images = pictures(1, 32, 32)
    results = [corrupt(images, name, severity, ids=torch.tensor([0])) for severity in range(1, 6)]
    assert all(not torch.equal(one, other) for one, other in pairwise(results))


def test_a_column_picture_and_its_transpose_are_treated_alike():
    images = pictures(1, 24, 40)
    for name in ("zoom_blur", "defocus_blur", "pixelate", "contrast"):
        upright = corrupt(images, name, 4, ids=torch.tensor([0]))
        lying = corrupt(images.mT.contiguous(), name, 4, ids=torch.tensor([0])).mT
        assert (upright - lying).abs().max() <= 1.01 / 255, name


def test_glass_blur_walks_the_pixels_as_the_original_loop():
    height, width, reach = 12, 9, 2
    offsets = torch.randint(-reach, reach, (3, 2, height, width), generator=torch.Generator().manual_seed(0))
    sources = blur._shuffle_sources(offsets, reach)
    for index in range(3):
        picture = np.arange(height * width).reshape(height, width)
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                right, down = offsets[index, :, row, column].tolist()
                picture[row, column] = picture[row + down, column + right]
        assert np.array_equal(sources[index].numpy(), picture.ravel())


def test_plasma_fills_the_whole_map_and_is_rougher_with_a_smaller_divisor():
    streams = streams_of((), torch.arange(2))
    smooth, rough = (weather.plasma_fractal(Draws(streams), 64, divisor) for divisor in (3.0, 1.5))
    assert (smooth.amin((1, 2)) == 0).all()
    assert (smooth.amax((1, 2)) == 1).all()
    assert (rough.diff(dim=2).abs().mean((1, 2)) > smooth.diff(dim=2).abs().mean((1, 2))).all()


def plain_plasma(noise: np.ndarray, divisor: float) -> np.ndarray:
    """Diamond-square one point at a time: the mean of four neighbours at half a step, plus noise."""
    side = len(noise)
    heights, amplitude, step = np.zeros((side, side)), 100.0, side
    while step >= 2:
        half = step // 2

        def fill(row: int, column: int, neighbours: list[tuple[int, int]], scale: float) -> None:
            values = [heights[(row + down) % side, (column + right) % side] for down, right in neighbours]
            heights[row, column] = sum(values) / 4 + scale * noise[row, column]

        corners = [(-half, -half), (-half, half), (half, -half), (half, half)]
        cross = [(-half, 0), (half, 0), (0, -half), (0, half)]
        for row in range(0, side, step):
            for column in range(0, side, step):
                fill(row + half, column + half, corners, amplitude**2)
        for row in range(0, side, step):
            for column in range(0, side, step):
                fill(row, column + half, cross, amplitude**2)
                fill(row + half, column, cross, amplitude**2)
        step, amplitude = half, amplitude / divisor
    heights -= heights.min()
    return heights / heights.max()


def test_plasma_equals_the_plain_loop():
    noise = Draws(streams_of((), torch.tensor([5]))).uniform(-1.0, 1.0, 16, 16)[0].numpy()
    fractal = weather.plasma_fractal(Draws(streams_of((), torch.tensor([5]))), 16, 1.7)[0]
    assert np.allclose(fractal.numpy(), plain_plasma(noise, 1.7), atol=1e-5)


@pytest.mark.parametrize(("repeat_edge", "mode"), [(False, "mirror"), (True, "reflect")])
def test_bilinear_sampling_equals_scipy(repeat_edge: bool, mode: str):
    images = pictures(1, 7, 9)
    rows, columns = Draws(streams_of((), torch.tensor([0]))).uniform(-20.0, 25.0, 2, 7, 9).unbind(1)
    ours = digital._sample(images, rows, columns, repeat_edge=repeat_edge)
    for channel in range(3):
        places = torch.cat([rows, columns]).numpy()
        expected = ndimage.map_coordinates(images[0, channel].numpy(), places, order=1, mode=mode)
        assert np.allclose(ours[0, channel].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (32, 32), (33, 57), (64, 100), (8, 9)])
def test_pixelate_equals_pillow(height: int, width: int):
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    for factor in (0.95, 0.9, 0.85, 0.75, 0.65, 0.6, 0.5, 0.4, 0.3, 0.25):
        ours = digital.pixelate(as_levels(images), factor)
        for image, result in zip(as_levels(images), ours, strict=True):
            picture = Image.fromarray(image.byte().permute(1, 2, 0).numpy())
            small = picture.resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
            expected = np.asarray(small.resize((width, height), Image.Resampling.BOX))
            assert np.array_equal(result.permute(1, 2, 0).numpy(), expected), factor


@pytest.mark.parametrize(("height", "width"), [(64, 91), (224, 224)])
def test_defocus_and_gaussian_blur_equal_the_plain_filters(height: int, width: int):
    levels = as_levels(pictures(1, height, width))
    kernel = blur._disk(8.0, 0.5)
    expected = ndimage.correlate(levels[0].double().numpy(), kernel[None], mode="mirror")
    assert np.allclose(blur.defocus_blur(levels, 8.0, 0.5)[0], expected, atol=1e-8)
    expected = ndimage.gaussian_filter(levels[0].double().numpy(), (0, 2.5, 2.5), mode="nearest")
    assert np.allclose(blur.gaussian_blur(levels, 2.5)[0], expected, atol=blur.ROUNDING)


def test_flat_images_keep_their_level_where_weights_add_up_to_one():
    flat = torch.arange(256.0).view(-1, 1, 1, 1).expand(-1, 3, 64, 64) / 255
    for name in ("gaussian_blur", "zoom_blur", "motion_blur", "contrast", "pixelate", "glass_blur"):
        for severity in (1, 5):
            assert torch.equal(corrupt(flat, name, severity, ids=torch.arange(256)), flat), (name, severity)


def test_shot_noise_has_the_chances_of_poisson_counts():
    for photons in (60.0, 3.0, 500.0):
        table = noise._shot_table(photons, torch.device("cpu")).view(256, 256)
        share = (table >> 16).double() / 2**15
        found = torch.zeros(256, 256, dtype=torch.float64)
        found.scatter_add_(1, (table & 255).long(), share / 256)
        found.scatter_add_(1, (table >> 8 & 255).long(), (1 - share) / 256)
        for level in (0, 1, 17, 128, 254, 255):
            counts = np.arange(2000)
            chances = stats.poisson.pmf(counts, level / 255 * photons)
            outcomes = (np.clip(counts / photons, 0, 1) * 255).astype(int)
            assert np.allclose(found[level], np.bincount(outcomes, chances, minlength=256), atol=1e-6), (photons, level)


def test_draws_have_their_distributions_and_streams_are_independent():
    draws = Draws(streams_of((3, 1), torch.arange(40)))
    normal, uniform, whole = draws.normal(5000), draws.uniform(0.0, 1.0, 5000), draws.integers(-3, 3, 5000)
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.chisquare(torch.bincount(whole.flatten() + 3, minlength=6).numpy()).pvalue > 1e-3
    between = torch.corrcoef(torch.cat([normal, uniform, whole.float()])).fill_diagonal_(0)
    assert between.abs().max() < 5 / 5000**0.5
    shifted = torch.corrcoef(torch.stack([uniform[:, 1:].flatten(), uniform[:, :-1].flatten()]))[0, 1]
    assert abs(shifted) < 5 / 200_000**0.5


def test_draws_go_on_where_the_last_call_ended_and_depend_on_every_part_of_the_key():
    ids = torch.tensor([4, 9])
    draws = Draws(streams_of((1, 2), ids))
    first, second = draws.uniform(0.0, 1.0, 7), draws.uniform(0.0, 1.0, 7)
    assert not torch.equal(first, second)
    again = Draws(streams_of((1, 2), ids.flip(0)))
    assert torch.equal(again.uniform(0.0, 1.0, 7).flip(0), first)
    for key in ((1, 3), (2, 1), (2, 2), (1, 2, 0)):
        assert not torch.equal(Draws(streams_of(key, ids)).uniform(0.0, 1.0, 7), first)


def test_canny_finds_the_border_of_a_square():
    layer = np.zeros((16, 16), dtype=np.uint8)
    layer[4:12, 4:12] = 200
    edges = spatter._canny_edges(layer, low=50, high=150)
    assert np.array_equal(edges.any(0), edges.any(1))
    assert not edges[6:10, 6:10].any()
    assert edges[6:10].sum(1).tolist() == [2, 2, 2, 2]


def test_frost_never_draws_the_sixth_texture_and_reduces_by_five():
    textures = [np.full((200, 300, 3), 10 * index, dtype=np.uint8) for index in range(6)]
    black = torch.zeros(60, 3, 16, 16)
    result = as_levels(corrupt(black, "frost", 1, ids=torch.arange(60), frost_textures=textures))
    assert set(result.unique().tolist()) == {0.0, 2.0, 4.0, 6.0, 8.0}
    striped = np.zeros((200, 200, 3), dtype=np.uint8)
    striped[2::5, 2::5] = 250
    result = as_levels(corrupt(black[:2], "frost", 1, ids=torch.arange(2), frost_textures=[striped]))
    assert result.unique().tolist() == [50.0]


def test_frost_enlarges_textures_that_are_smaller_than_the_image():
    textures = [torch.full((30, 50, 3), 100, dtype=torch.uint8)]
    result = corrupt(torch.zeros(1, 3, 120, 140), "frost", 1, ids=torch.tensor([0]), frost_textures=textures)
    assert as_levels(result).unique().tolist() == [40.0]


def test_procedural_ice_is_pale_blue_and_varied():
    textures = weather.procedural_textures()
    assert len(textures) == 5
    for texture in textures:
        red, _, blue = texture.float().mean((1, 2))
        assert blue > red
        assert texture.float().std() > 15


def test_images_are_rounded_to_levels_first_and_keep_their_type():
    images = pictures(2, 16, 16)
    ids = torch.arange(2)
    expected = corrupt(images, "gaussian_noise", 1, ids=ids)
    assert torch.equal(corrupt((images + 0.001).clamp(0, 1), "gaussian_noise", 1, ids=ids), expected)
    assert torch.equal(corrupt(images.double(), "gaussian_noise", 1, ids=ids).float(), expected)
    assert corrupt(images[:0], "fog", 1, ids=ids[:0]).shape == (0, 3, 16, 16)


def test_protocol_names_the_parameters_and_the_textures():
    texture = np.zeros((80, 80, 3), dtype=np.uint8)
    assert corruption_protocol(32, 32, None) == {
        "corruption_images": "generated",
        "corruption_version": 2,
        "corruption_parameters": "cifar-10-c",
        "frost_textures": "procedural",
    }
    assert corruption_protocol(224, 320, [texture])["corruption_parameters"] == "imagenet-c"
    assert corruption_protocol(64, 224, [texture])["corruption_parameters"] == "tiny-imagenet-c"
    assert corruption_protocol(64, 224, [texture])["frost_textures"] == "given"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "gausian_noise"}, "did you mean 'gaussian_noise'"),
        ({"severity": 6}, "Severity is 6"),
        ({"severity": 0}, "Severity is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"ids": torch.arange(3)}, "3 ids for 2 images"),
        ({"ids": torch.tensor([0, -1])}, "whole numbers from 0 on"),
        ({"images": torch.full((2, 3, 16, 16), 1.5)}, "range from 1.5 to 1.5"),
        ({"images": torch.full((2, 3, 16, 16), float("nan"))}, "range from nan"),
        ({"images": torch.zeros(2, 3, 7, 16)}, "7x16"),
        ({"frost_textures": []}, "No frost texture"),
        ({"frost_textures": [np.zeros((9, 9, 4), dtype=np.uint8)]}, "uint8 RGB"),
        ({"frost_textures": [np.zeros((9, 9, 3))]}, "uint8 RGB"),
    ],
)
def test_mistakes_are_refused_with_a_sentence(changes: dict, message: str):
    request = {"images": pictures(2, 16, 16), "name": "frost", "severity": 1, "ids": torch.arange(2), **changes}
    with pytest.raises(UsageError, match=message):
        corrupt(request.pop("images"), request.pop("name"), request.pop("severity"), **request)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "torch.uint8; hand in floats"),
        (torch.zeros(2, 1, 16, 16), r"shape \(2, 1, 16, 16\)"),
        (torch.zeros(3, 16, 16), r"shape \(3, 16, 16\)"),
    ],
)
def test_images_of_another_kind_are_refused(images: Tensor, message: str):
    # Not through `corrupt`: the shape checks of the tests would speak first.
    with pytest.raises(UsageError, match=message):
        _check_images(images, torch.arange(2))
