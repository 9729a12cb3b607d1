import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toto.runtime import checkpoint, checkpoint_commit, checkpoint_record, durable
from toto.runtime.checkpoint_commit import Retention


def tensors(seed: int = 0) -> dict[str, dict[str, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 3, generator=random)
    return {
        "model": {
            "weight": weight,
            "tied": weight,
            "transposed": weight.T,
            "half": weight.bfloat16(),
            "empty": torch.zeros(0, 4),
        },
        "random": {"cpu": torch.randint(0, 256, (16,), generator=random, dtype=torch.uint8)},
        "cursor": {"step": torch.tensor(7)},
    }


def save(folder: Path, step: int, **retention: int) -> Path:
    return checkpoint.save(
        folder,
        step,
        tensors=tensors(step),
        config_digest="d",
        retention=Retention(**retention),
    )


def assert_same(got: dict[str, dict[str, Tensor]], wanted: dict[str, dict[str, Tensor]]) -> None:
    assert {k: sorted(v) for k, v in got.items()} == {k: sorted(v) for k, v in wanted.items()}
    for group, named in wanted.items():
        for name, tensor in named.items():
            assert got[group][name].dtype == tensor.dtype
            assert torch.equal(got[group][name], tensor)


def test_round_trip(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", 100)
    assert path.name == "step-0000100"
    assert_same(checkpoint.load(path, config_digest="d"), tensors(100))
    record = json.loads((path / "commit.json").read_text())
    assert (record["schema"], record["step"], record["config_digest"]) == (2, 100, "d")
    assert set(record["sha256"]) == {
        "model.safetensors",
        "random.safetensors",
        "cursor.safetensors",
    }


def test_tensors_outlive_their_files(tmp_path: Path) -> None:
    loaded = checkpoint.load(save(tmp_path, 1), config_digest=None)
    for step in (2, 3):
        save(tmp_path, step)
    assert not (tmp_path / "step-0000001").exists()
    assert_same(loaded, tensors(1))


def test_latest_is_the_newest(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "none") is None
    for step in (9_999_999, 10_000_000):
        save(tmp_path, step)
    found = checkpoint.latest(tmp_path)
    assert found == checkpoint.Found(path=tmp_path / "step-10000000", step=10_000_000, damaged=())


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in range(5):
        save(tmp_path, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000003", "step-0000004"]


def test_each_doubling_of_a_step_is_kept_for_good(tmp_path: Path) -> None:
    for step in range(0, 50, 2):
        save(tmp_path, step, permanent_from=3)
    steps = [int(path.name.removeprefix("step-")) for path in sorted(tmp_path.iterdir())]
    assert steps == [6, 12, 24, 46, 48]


def set_aside(folder: Path, step: int) -> Path:
    """Undo a checkpoint as a rewind does."""
    path = checkpoint.at(folder, step)
    return path.rename(checkpoint_record.name_undone(path))


def test_what_a_rewind_undid_goes_when_two_whole_ones_are_as_far(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        save(tmp_path, step)
    aside = set_aside(tmp_path, 12)
    assert aside.name == "step-0000012.rewound-1"
    for step in (10, 12):
        save(tmp_path, step)
        assert aside.exists(), step  # one is as far at most
    save(tmp_path, 14)
    assert not aside.exists()
    assert [step for step, _ in checkpoint_record.steps(tmp_path)] == [14, 12]


def test_a_damaged_one_is_no_reason_to_remove_what_a_rewind_undid(tmp_path: Path) -> None:
    for step in (4, 8):
        save(tmp_path, step)
    aside = set_aside(tmp_path, 8)
    save(tmp_path, 8)
    (tmp_path / "step-0000008" / "model.safetensors").write_bytes(b"")
    save(tmp_path, 12)
    assert aside.exists()
    save(tmp_path, 16)
    assert not aside.exists()


def test_one_that_died_removing_what_a_rewind_undid_is_swept_up_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (4, 8):
        save(tmp_path, step)
    set_aside(tmp_path, 8)
    save(tmp_path, 8)
    second = set_aside(tmp_path, 8)
    assert second.name == "step-0000008.rewound-2"

    def crash(name: str) -> None:
        if name == "checkpoint.mid_prune":
            raise SystemExit

    save(tmp_path, 10)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "crash_point", crash)
        with pytest.raises(SystemExit):
            save(tmp_path, 12)
    left = [path.name for path in tmp_path.iterdir() if "rewound" in path.name]
    assert len(left) == 2
    assert any(".tmp-" in name for name in left)
    save(tmp_path, 14)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-0000012", "step-0000014"]


def test_permanent_steps_are_a_function_of_the_step() -> None:
    retention = Retention(permanent_from=1000)
    kept = [step for step in range(0, 40_000, 500) if retention.permanent(step)]
    assert kept == [1000, 2000, 4000, 8000, 16000, 32000]
    assert not any(Retention().permanent(step) for step in range(100))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": 1}, "keep 1 is too few, one may be damaged; keep at least 2"),
        ({"permanent_from": -1}, "permanent_from -1 is negative; 0 keeps none"),
    ],
)
def test_retention_that_makes_no_sense(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Retention(**fields)


def test_a_step_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert checkpoint.at(tmp_path, save(tmp_path, 2) and 2) == tmp_path / "step-0000002"
    with pytest.raises(ValueError, match=r"no checkpoint of step 3 \(it has: 2\); give one of"):
        checkpoint.at(tmp_path, 3)


def test_damaged_ones_do_not_count_as_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    for step in (2, 3):
        (tmp_path / f"step-{step:07d}" / "model.safetensors").write_bytes(b"?")
    save(tmp_path, 4, keep=2)
    assert checkpoint.verify(tmp_path / "step-0000001")["step"] == 1
    save(tmp_path, 5, keep=2)
    assert not (tmp_path / "step-0000001").exists()


def test_the_same_step_again(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    written = (path / "commit.json").stat().st_mtime_ns
    assert save(tmp_path, 1) == path
    assert (path / "commit.json").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match=r"step-0000001 exists with other contents"):
        checkpoint.save(tmp_path, 1, tensors=tensors(2), config_digest="d")
    with pytest.raises(ValueError, match=r"step-0000001 exists with other contents"):
        checkpoint.save(tmp_path, 1, tensors=tensors(1), config_digest="e")


def test_another_config_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    with pytest.raises(ValueError, match="belongs to config d, not e; resume it with"):
        checkpoint.load(path, config_digest="e")


def test_a_newer_schema_is_refused_and_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_commit, "SCHEMA", 3)
        patch.setattr(checkpoint_record, "SCHEMA", 3)
        path = save(tmp_path, 1)
    with pytest.raises(ValueError, match="has schema 3, this toto reads 2") as caught:
        checkpoint.latest(tmp_path)
    assert not isinstance(caught.value, checkpoint.DamagedCheckpointError)
    assert path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "step -1 is negative"),
        ({"tensors": {}}, "no tensors to save"),
        ({"tensors": {"../x": {}}}, r"group '\.\./x' cannot be a file name"),
    ],
)
def test_requests_that_make_no_sense(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    request = {"step": 1, "tensors": tensors(), "config_digest": "d", **change}
    with pytest.raises(ValueError, match=message):
        checkpoint.save(tmp_path, **request)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_what_cannot_fit_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 10

    monkeypatch.setattr(durable.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(durable.DiskFullError, match=r"\(\d+ bytes needed, 10 free\)"):
        save(tmp_path, 1)
    assert not list(tmp_path.iterdir())
