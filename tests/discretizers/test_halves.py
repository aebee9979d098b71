"""The halves of a discretizer as graphs, whatever finds its codes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.halves import Decode, Encode
from dat.discretizers.networks.dalle import DalleConfig, DalleDVAE
from dat.discretizers.networks.fast import FastAutoencoder, FastConfig
from dat.discretizers.networks.var import VAR, VARConfig
from dat.errors import UsageError
from dat.nn.graphs import Graph, read_graph, write_graph

KINDS = {
    "vq": (32, 6, None),
    "cosine": (32, 6, None),
    "ibq": (32, 6, None),
    "gumbel": (32, 6, None),
    "lfq": (64, 6, None),
    "fsq": (40, 3, (5, 4, 2)),
}


def discretizer(kind: str) -> FrozenDiscretizer:
    torch.manual_seed(1)
    size, depth, levels = KINDS[kind]
    network = FastAutoencoder(
        FastConfig(size, depth, 4, width=8, encoder_blocks=1, decoder_blocks=1, quantizer=kind, levels=levels)
    )
    for parameter in network.parameters():
        parameter.data.normal_(std=0.5)
    return FrozenDiscretizer(network)


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_give_the_same_codes_and_pictures(kind: str, tmp_path: Path) -> None:
    if kind == "lfq" and not hasattr(torch.compiler, "is_exporting"):
        pytest.skip("torch before 2.7 does not export its shifts of bits, and `dat export` says so")
    frozen, images = discretizer(kind), torch.rand(5, 3, 12, 12)
    codes = frozen.encode(images)
    assert len(codes.unique()) > 5
    write_graph("torch-export", Graph(Encode(frozen), images[:1], "codes", {}), tmp_path / "encode.pt2")
    write_graph("torch-export", Graph(Decode(frozen, (12, 12)), codes[:1], "images", {}), tmp_path / "decode.pt2")
    encode, decode = (read_graph("torch-export", tmp_path / name) for name in ("encode.pt2", "decode.pt2"))
    for count in (1, 5):
        assert torch.equal(encode(images[:count]), codes[:count])
        assert torch.allclose(decode(codes[:count]), frozen(images[:count]), atol=1e-5)


TINY_VAR = VARConfig(8, 4, 32, (1,), 1, v_patch_nums=(1, 4))
NETWORKS = {"var": (VAR, TINY_VAR, 4), "dalle": (DalleDVAE, DalleConfig(8, 1, 8, 4, 2), 16)}
"""Whose codes are found by something else, and the size of what they are shown."""


@pytest.mark.parametrize("layout", NETWORKS)
def test_so_do_those_of_networks_with_quantizers_of_their_own(layout: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    create, config, side = NETWORKS[layout]
    frozen, images = FrozenDiscretizer(create(config)), torch.rand(5, 3, side, side)
    write_graph("torch-export", Graph(Encode(frozen), images[:1], "codes", {}), tmp_path / "encode.pt2")
    write_graph(
        "torch-export", Graph(Decode(frozen, (side, side)), frozen.encode(images[:1]), "images", {}), tmp_path / "d.pt2"
    )
    encode, decode = (read_graph("torch-export", tmp_path / name) for name in ("encode.pt2", "d.pt2"))
    for count in (1, 5):
        assert torch.equal(encode(images[:count]), frozen.encode(images[:count]))
        assert torch.allclose(decode(frozen.encode(images[:count])), frozen(images[:count]), atol=1e-5)


class Deciding(nn.Module):
    """What no graph holds: data decide."""

    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


def test_what_cannot_be_written_is_a_sentence_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"Deciding cannot be written as torch-export by torch .*; export another network"):
        write_graph("torch-export", Graph(Deciding(), torch.rand(1, 3, 4, 4), "images", {}), tmp_path / "x.pt2")
    assert capsys.readouterr() == ("", "")
