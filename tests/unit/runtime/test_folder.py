import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from toto.runtime import durable, folder
from toto.runtime.folder import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    width: int = 64
    rope: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Train:
    model: Model = field(default_factory=Model)
    lr: float = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Other:
    lr: float = 1e-3


def plain(path: Path, config: object | None = None) -> RunFolder:
    return RunFolder.create(path, config or Train(), tensorboard=False)


def test_config_and_environment_are_there_before_the_first_step(tmp_path: Path) -> None:
    with plain(tmp_path / "deep" / "run") as run:
        saved = json.loads((run.path / "config.json").read_text())
        assert saved["schema"] == 1
        assert saved["kind"] == "Train"
        assert saved["config"]["model"] == {"width": 64, "rope": None}
        assert json.loads((run.path / "env.json").read_text())["toto"]
        assert run.config(Train) == Train()
    assert RunFolder.open(run.path).config(Train) == Train()


def test_the_same_config_goes_on(tmp_path: Path) -> None:
    with plain(tmp_path) as run:
        run.log(step=1, loss=2.0)
    with plain(tmp_path) as run:
        run.log(step=2, loss=1.0)
        assert [line["step"] for line in run.metrics()] == [1, 2]
    assert (tmp_path / "env-2.json").is_file()


def test_what_was_refused_before_it_began_may_be_asked_for_anew(tmp_path: Path) -> None:
    plain(tmp_path).close()
    other = replace(Train(), lr=0.1)
    plain(tmp_path, other).close()
    assert RunFolder.open(tmp_path).config(Train) == other


def test_another_config_is_refused_with_its_differences(tmp_path: Path) -> None:
    with plain(tmp_path) as run:
        run.write_result("first", {})
    other = replace(Train(), model=Model(width=128), lr=0.1)
    with pytest.raises(ValueError, match=r"model\.width: 64 != 128; lr: 0\.001 != 0\.1.*--out"):
        plain(tmp_path, other)
    plain(tmp_path).close()  # the refusal let go of the lock


def test_another_kind_of_config_is_refused(tmp_path: Path) -> None:
    with plain(tmp_path) as run:
        run.write_result("first", {})
    with pytest.raises(ValueError, match=r"kind: 'Train' != 'Other'"):
        plain(tmp_path, Other())
    with pytest.raises(ValueError, match="is a run of Train, not of Other"):
        RunFolder.open(tmp_path).config(Other)


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(ValueError, match=r"not a run folder and holds other files \(thesis.tex\)"):
        plain(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_start_that_was_cut_short_begins_again(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text("{}")
    (tmp_path / ".config.json.0123.tmp").write_text('{"sch')
    with plain(tmp_path) as run:
        assert run.config(Train) == Train()
    assert not list(tmp_path.glob(".*.tmp"))


def test_open_wants_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a run folder \(no config.json\)"):
        RunFolder.open(tmp_path)


def test_an_edited_config_is_noticed(tmp_path: Path) -> None:
    plain(tmp_path).close()
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"width": 64', '"width": 65'))
    with pytest.raises(ValueError, match=r"config.json was edited after the run began"):
        RunFolder.open(tmp_path).config(Train)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    plain(tmp_path).close()
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(ValueError, match="has schema 2, this toto reads 1"):
        RunFolder.open(tmp_path).config(Train)


def test_metrics_come_back_as_they_were_logged(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "loss": 0.1 + 0.2, "note": "größer"},
        {"step": 2, "best": None, "ok": True},
    ]
    with plain(tmp_path) as run:
        for line in lines:
            run.log(**line)
        assert run.metrics() == lines


@pytest.mark.parametrize("values", [{"loss": 1.0}, {"step": 1.5}, {"step": True}])
def test_a_line_needs_a_step(tmp_path: Path, values: dict[str, float]) -> None:
    with plain(tmp_path) as run, pytest.raises(ValueError, match="needs an int step"):
        run.log(**values)


def test_a_tensor_is_not_a_number(tmp_path: Path) -> None:
    with plain(tmp_path) as run, pytest.raises(ValueError, match="metric loss is a list"):
        run.log(step=1, loss=[1.0])  # type: ignore[arg-type]


def test_a_torn_last_line_is_passed_over_and_then_removed(tmp_path: Path) -> None:
    with plain(tmp_path) as run:
        run.log(step=1, loss=1.0)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "lo')
    assert RunFolder.open(tmp_path).metrics() == [{"step": 1, "loss": 1.0}]
    with plain(tmp_path) as run:
        run.log(step=2, loss=0.5)
        assert [line["step"] for line in run.metrics()] == [1, 2]


@pytest.mark.parametrize("broken", [b"{oops}", b"", b"[1]", b'{"loss": 1}', b"\xff\x00"])
def test_any_other_broken_line_is_an_error(tmp_path: Path, broken: bytes) -> None:
    plain(tmp_path).close()
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + broken + b'\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2 is broken"):
        RunFolder.open(tmp_path).metrics()


def test_rewind_drops_later_steps(tmp_path: Path) -> None:
    with plain(tmp_path) as run:
        for step in (1, 2, 3, 2):
            run.log(step=step, loss=float(step))
        run.rewind(2)
        assert [line["step"] for line in run.metrics()] == [1, 2, 2]
        run.rewind(0)
        assert run.metrics() == []


def test_a_rewind_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with plain(tmp_path) as run:
        for step in (1, 2, 3):
            run.log(step=step)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(durable.os, "write", full)
            with pytest.raises(durable.DiskFullError, match=r"metrics.jsonl: the disk"):
                run.rewind(1)
            with pytest.raises(durable.DiskFullError, match=r"metrics.jsonl: the disk"):
                run.log(step=4)
        assert [line["step"] for line in run.metrics()] == [1, 2, 3]


def test_reading_takes_no_lock_and_does_not_log(tmp_path: Path) -> None:
    with plain(tmp_path):
        reader = RunFolder.open(tmp_path)
        reader.write_result("classification", {"top1": 0.5})
        for call in (lambda: reader.log(step=1), lambda: reader.rewind(1)):
            with pytest.raises(ValueError, match="open for reading only"):
                call()


def test_a_second_writer_is_told_who_the_first_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "DYING_S", 0.1)
    with plain(tmp_path):
        with pytest.raises(ValueError, match=f"is being written by process {os.getpid()} on "):
            RunFolder.open(tmp_path, writing=True)
        with pytest.raises(ValueError, match=f"is being written by process {os.getpid()} on "):
            plain(tmp_path)
    RunFolder.open(tmp_path, writing=True).close()


def test_a_lock_that_a_dying_process_still_holds_is_waited_for(tmp_path: Path) -> None:
    first = plain(tmp_path)
    dies = threading.Timer(0.2, first.close)
    dies.start()
    began_s = time.monotonic()
    RunFolder.open(tmp_path, writing=True).close()
    assert 0.1 < time.monotonic() - began_s < folder.DYING_S
    dies.join()


HOLDER = """
import sys, time
from pathlib import Path
from toto.runtime.folder import RunFolder
run = RunFolder.open(Path(sys.argv[1]), writing=True)
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.faults
def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    plain(tmp_path).close()
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(ValueError, match=f"is being written by process {holder.pid} on "):
                RunFolder.open(tmp_path, writing=True)
        finally:
            holder.send_signal(signal.SIGKILL)
    RunFolder.open(tmp_path, writing=True).close()


def test_results(tmp_path: Path) -> None:
    with plain(tmp_path) as run:
        assert not run.has_result("a")
        run.write_result("a", {"top1": 0.25})
        run.write_result("a", {"top1": 0.5})
        assert run.has_result("a")
        assert run.result("a") == {"top1": 0.5}
        with pytest.raises(ValueError, match=r"no result 'b' \(it has: a\)"):
            run.result("b")
        with pytest.raises(ValueError, match=r"'\.\./b' is not a file name"):
            run.write_result("../b", {})


def test_tensorboard_forgets_what_was_rewound(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunFolder.create(tmp_path, Train()) as run:
        for step in (1, 2, 3):
            run.log(step=step, loss=float(step), note="text", flag=True)
        run.rewind(1)
        run.log(step=2, loss=20.0)
    with RunFolder.open(tmp_path, writing=True) as run:
        run.log(step=3, loss=30.0)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 20.0), (3, 30.0)]


def test_without_tensorboard_there_are_no_event_files(tmp_path: Path) -> None:
    with plain(tmp_path) as run:
        run.log(step=1, loss=1.0)
    assert not (tmp_path / "tensorboard").exists()
