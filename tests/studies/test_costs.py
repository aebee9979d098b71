"""The cost of a step comes from the log of its training, which may be damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from dat.engine.loop import Training
from dat.errors import DataError
from dat.results import Row
from dat.studies import measured
from dat.studies.study import Job


def row(suite: str, metric: str, value: float, n: int, job: Job, protocol: dict[str, object]) -> Row:
    return Row(suite, metric, value, n, None, job.seed, job.label, "", protocol)


def costs(folder: Path) -> list[Row]:
    return measured.costs(row, {"dat": Training(epochs=1, batch_size=8, lr=0.1)}, [0], folder)


@pytest.mark.parametrize(
    "line", ["{", '{"step": 3}', '{"images_per_s": "fast"}', "[" * 100_000, '{"images_per_s": ' + "9" * 5000 + "}"]
)
def test_a_damaged_log_is_a_sentence(line: str, tmp_path: Path) -> None:
    log = tmp_path / "dat-seed0" / "log.jsonl"
    with pytest.raises(DataError, match=r"dat-seed0/log\.jsonl is damaged"):
        costs(tmp_path)
    log.parent.mkdir()
    log.write_text('{"images_per_s": 4.0}\n')
    (found,) = cast(Any, costs(tmp_path))
    assert found.value == 2.0
    log.write_text('{"images_per_s": 4.0}\n' + line + "\n")
    with pytest.raises(DataError, match=r"dat-seed0/log\.jsonl is damaged .*remove .*dat-seed0 to train anew"):
        costs(tmp_path)
