"""Alphas beside our own weights: only what was measured with them is shown, and says on what."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from dat.discretizers import listing, names, suggested
from dat.discretizers.pretrained import read_extra
from dat.errors import CheckpointError
from dat.nn.weights import file_sha256

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def alpha(side: int, value: float = 0.2, rate: float = 0.1) -> suggested.SuggestedAlpha:
    return suggested.SuggestedAlpha(side, value, rate, 0.19, 0.21, 64, "photos", "0123", "net.pth")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shipped discretizer in a folder of its own."""
    path = tmp_path / "cifar-f2-1024-fast.safetensors"
    path.write_bytes(names.shipped()["cifar-f2-1024-fast"].read_bytes())
    monkeypatch.setattr(names, "SHIPPED", tmp_path)
    return path


def test_what_was_measured_is_listed_by_size(weights: Path) -> None:
    assert listing.as_table(listing.rows()).splitlines()[1].split()[6] == "-"
    suggested.write(weights.parent, weights, [alpha(64), alpha(64, 0.1, rate=0.05)])
    suggested.write(weights.parent, weights, [alpha(32, 0.1234)])
    suggested.write(weights.parent, weights, [alpha(64, 0.3)])
    assert suggested.read(weights) == [alpha(32, 0.1234), alpha(64, 0.1, rate=0.05), alpha(64, 0.3)]
    row = listing.rows()[0]
    assert row["suggested_alpha"] == [asdict(of) for of in suggested.read(weights)]
    assert "0.12 at 32 px, 0.3 at 64 px" in listing.as_table([row])


def test_alphas_of_other_weights_are_not_shown(weights: Path) -> None:
    path = suggested.write(weights.parent, weights, [alpha(64)])
    path.write_text(path.read_text().replace(file_sha256(weights), 64 * "0"))
    assert suggested.read(weights) == []
    suggested.write(weights.parent, weights, [alpha(32)])
    assert suggested.read(weights) == [alpha(32)]


@pytest.mark.parametrize("text", ["{", "[]", '{"sha256": ""}', '{"sha256": "", "suggested_alpha": [{"side": 3}]}'])
def test_a_damaged_manifest_is_a_sentence(weights: Path, text: str) -> None:
    suggested.manifest_of(weights).write_text(text)
    with pytest.raises(CheckpointError, match=r"cifar-f2-1024-fast\.json is damaged .* put it back"):
        listing.rows()


def test_every_shipped_discretizer_suggests_an_alpha_of_its_own_size() -> None:
    assert len(names.shipped()) == 6
    for name, path in names.shipped().items():
        found = {of.side: of for of in suggested.read(path) if of.rate == 0.1}
        assert read_extra(path)["quality"].get("size", 64 if name.startswith("photos") else 32) in found
        for of in found.values():
            assert 0 < of.lowest <= of.alpha <= of.highest < 1.15 * of.lowest
            assert of.n >= 256
            assert (of.pictures, of.network, of.data) != ("", "", "")


def test_the_manifests_say_what_was_measured() -> None:
    """Every alpha is the mean of those that lie in the kept results, of the same pictures and network."""
    measured: dict[tuple[str, int, str], list[float]] = {}
    for path in sorted(RESULTS.glob("alpha-for-rate-*.json")):
        result = json.loads(path.read_text())
        for point in result["points"]:
            key = (point["discretizer"], point["side"], result["setting"]["data"])
            measured.setdefault(key, []).append(point["alpha"])
    for name, path in names.shipped().items():
        for of in suggested.read(path):
            alphas = measured[name, of.side, of.data]
            assert of.alpha == pytest.approx(sum(alphas) / len(alphas), rel=1e-3)
            assert (of.lowest, of.highest) == (min(alphas), max(alphas))
