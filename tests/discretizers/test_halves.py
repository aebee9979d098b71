"""The halves of a discretizer as graphs, whatever finds its codes."""

from pathlib import Path

import pytest
import torch

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.halves import Decode, Encode
from dat.discretizers.networks.fast import FastAutoencoder, FastConfig
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
