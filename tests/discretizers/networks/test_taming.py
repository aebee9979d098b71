import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.taming import infer_config
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.pretrained import load_discretizer, save_discretizer
from dat.errors import CheckpointError

Golden = Callable[[str], Path]
TINY = VQGANConfig(
    n_embed=16, embed_dim=5, z_channels=5, ch=32, ch_mult=(1, 1), num_res_blocks=1, resolution=256, attn_resolutions=(128,)
)


def network_of(**changes: Any) -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(replace(TINY, **changes))


def check_golden(folder: Path, config: dict[str, Any] | None, quantizer: str) -> None:
    io = load_file(folder / "io.safetensors")
    frozen = load_discretizer(folder / "weights.safetensors", config)
    assert isinstance(frozen.network, VQGAN)
    assert frozen.network.config.quantizer == quantizer
    assert torch.equal(frozen.encode(io["x"]), io["codes"])
    torch.testing.assert_close(frozen(io["x"]), io["rec01"], atol=1e-4, rtol=0)
    torch.testing.assert_close(frozen.decode(io["codes"]), io["rec01"], atol=1e-4, rtol=0)


def public_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["config"]


@pytest.mark.shared
@pytest.mark.parametrize("config", ["public", "layout", None])
def test_gumbel_loads_with_and_without_its_configuration(golden: Golden, config: str | None) -> None:
    folder = golden("taming_gumbelvq")
    check_golden(folder, {"public": public_config(folder), "layout": {"layout": "gumbel"}}.get(config or ""), "gumbel")


@pytest.mark.shared
@pytest.mark.parametrize("config", ["public", "layout"])
def test_ibq_loads_with_its_configuration_or_its_name(golden: Golden, config: str) -> None:
    folder = golden("ibq")
    check_golden(folder, {"public": public_config(folder), "layout": {"layout": "ibq"}}[config], "ibq")


@pytest.mark.parametrize("quantizer", ["vq", "gumbel", "ibq"])
def test_the_configuration_is_read_off_the_tensors(quantizer: str) -> None:
    network = network_of(quantizer=quantizer)
    assert infer_config(network.state_dict(), "file", quantizer=quantizer) == network.config


def test_a_file_that_may_be_an_ibq_is_not_guessed(tmp_path: Path) -> None:
    network, path, images = network_of(num_res_blocks=4), tmp_path / "q.safetensors", torch.rand(1, 3, 8, 8)
    torch.nn.init.normal_(network.quantize.get_parameter("embedding.weight"))
    save_file(network.state_dict(), path)
    with pytest.raises(CheckpointError, match=r'config=\{"layout": "ibq"\} or config=\{"layout": "vqgan"\}'):
        load_discretizer(path)
    as_ibq = FrozenDiscretizer(VQGAN(replace(network.config, quantizer="ibq")))
    as_ibq.network.load_state_dict(network.state_dict())
    for layout, expected in (("vqgan", FrozenDiscretizer(network)), ("ibq", as_ibq)):
        assert torch.equal(load_discretizer(path, {"layout": layout})(images), expected(images))
    assert not torch.equal(as_ibq.encode(images), FrozenDiscretizer(network).encode(images))
    assert load_discretizer(path, network.config.to_dict()).network.config == network.config
    assert load_discretizer(save_discretizer(tmp_path / "own", network)).network.config == network.config


@pytest.mark.parametrize("blocks", [1, 3, 5])
def test_other_numbers_of_blocks_are_a_vqgan(tmp_path: Path, blocks: int) -> None:
    save_file(network_of(num_res_blocks=blocks).state_dict(), tmp_path / "q.safetensors")
    network = load_discretizer(tmp_path / "q.safetensors").network
    assert isinstance(network, VQGAN)
    assert network.config.quantizer == "vq"


def test_running_means_are_those_of_ibq_only(tmp_path: Path) -> None:
    torch.manual_seed(1)
    raw, means, images = network_of(quantizer="ibq"), VQGAN(replace(TINY, quantizer="ibq")), torch.rand(1, 3, 8, 8)
    averages = {f"model_ema.{key.replace('.', '')}": value for key, value in means.state_dict().items()}
    averages |= {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(-1)}
    torch.save({"state_dict": {**raw.state_dict(), **averages}}, tmp_path / "q.ckpt")
    latents = FrozenDiscretizer(means).latents(images)
    assert torch.equal(load_discretizer(tmp_path / "q.ckpt", {"layout": "ibq"}).latents(images), latents)
    latents = FrozenDiscretizer(raw).latents(images)
    assert torch.equal(load_discretizer(tmp_path / "q.ckpt", {"layout": "vqgan"}).latents(images), latents)
    public = {key: value for key, value in raw.config.to_dict().items() if key != "quantizer"}
    without = {**public, "l2_normalize": False, "use_entropy_loss": True, "use_ema": False, "learning_rate": 1e-4}
    assert torch.equal(load_discretizer(tmp_path / "q.ckpt", without).latents(images), latents)


def test_a_missing_tensor_of_the_gumbel_quantizer_is_named(tmp_path: Path) -> None:
    tensors = network_of(quantizer="gumbel").state_dict()
    del tensors["quantize.proj.bias"]
    save_file(tensors, tmp_path / "q.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing \(quantize\.proj\.bias\)"):
        load_discretizer(tmp_path / "q.safetensors")
