"""Things that do not belong together are refused in one line, before any work is done."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from toto.cli import main
from toto.jobs import pretraining
from toto.models.llama import Llama
from toto.recipes import PRETRAIN


def refused(
    arguments: list[object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    status: int = 2,
) -> str:
    """Run `toto ARGUMENTS`, which must fail; gives the line that says why."""
    monkeypatch.setattr(sys, "argv", ["toto", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == status
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line.startswith("toto: ")]
    assert said.err.endswith(f"{lines[-1]}\n")
    assert len(lines) == 1
    return lines[0].removeprefix("toto: ")


def test_shards_of_another_tokenizer_are_not_probed(
    finished: Path,
    grey_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["probe", "--run-folder", finished / "pretrain", "--out", tmp_path / "out"]
    line = refused([*arguments, "--shards", grey_shards / "moving-digits"], monkeypatch, capsys)
    assert "was tokenised by other weights than the run's tokenizer; tokenise the clips" in line


def test_fp8_where_there_is_none_is_refused_before_the_run_has_a_folder(
    grey_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    arguments = ["pretrain", "tiny", "--shards", grey_shards, "--out", tmp_path / "out"]
    line = refused([*arguments, "--float8"], monkeypatch, capsys)
    assert line == (
        "FP8 needs torchao.float8, which the extra `fp8` installs: pip install 'toto-video[fp8]'"
    )
    assert not (tmp_path / "out").exists()
    # Where there is, the fresh model is converted and trained.
    converted: list[object] = []
    monkeypatch.setattr(pretraining, "use_float8", lambda model, _: converted.append(model))
    job = replace(PRETRAIN["tiny"](), shards=str(grey_shards), steps=6, warmup=1, float8=True)
    job.run(tmp_path / "out")
    assert type(converted[0]) is Llama


def test_shards_of_another_vocabulary_are_not_trained_on(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["pretrain", "tiny", "--shards", finished / "shards", "--out", tmp_path / "out"]
    line = refused(arguments, monkeypatch, capsys)
    assert line == (
        "the model reads 19 ids, these shards need 35 (32 codes and 3 special ones); "
        "--model.vocab-size 35"
    )
    assert not (tmp_path / "out").exists()
    # The remedy is one.
    remedied = [*arguments, "--model.vocab-size", 35, "--steps", 6]
    monkeypatch.setattr(sys, "argv", ["toto", *map(str, remedied)])
    main()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.context", 65], "a sequence has 66 tokens, the model's context 65; --model.con"),
        (["--layout.frames", 9], "a sequence has 146 tokens|no clip has 9 frames"),
        (
            ["--batch", 3, "--accumulate", 2],
            "batch 3 does not divide into 1 ranks x 2 parts; choose",
        ),
        (["--precision", "fp16"], "precision 'fp16': fp16 needs loss scaling"),
        (
            ["--mixture.0.name", "clips/none"],
            r"no token set 'clips/none' \(it has: clips/held-out, cl",
        ),
        (["--mixture.0.weight", 0], "source 0 has weight 0.0; leave it out instead"),
    ],
)
def test_a_run_that_cannot_be_is_refused(
    options: list[object],
    message: str,
    grey_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["pretrain", "tiny", "--shards", grey_shards, "--out", tmp_path / "out", *options]
    line = refused(arguments, monkeypatch, capsys)
    assert re.search(message, line)


def test_a_damaged_shard_is_named(
    grey_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shards = shutil.copytree(grey_shards, tmp_path / "shards")
    tokens = shards / "moving-digits" / "pretrain" / "00000" / "tokens.u16"
    data = bytearray(tokens.read_bytes())
    data[7] ^= 1
    tokens.write_bytes(data)
    arguments = ["pretrain", "tiny", "--shards", shards, "--out", tmp_path / "out"]
    line = refused(arguments, monkeypatch, capsys)
    assert line == f"{tokens} is damaged: its sha256 is not the sidecar's; tokenise again"


def test_shards_without_their_tokenizer_are_refused_and_can_be_mended(
    grey_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shards = shutil.copytree(grey_shards, tmp_path / "shards")
    shutil.move(shards / "tokenizer", tmp_path / "aside")
    arguments = ["pretrain", "tiny", "--steps", 6, "--shards", shards, "--out", tmp_path / "out"]
    line = refused(arguments, monkeypatch, capsys)
    assert line == f"{shards / 'tokenizer'} is missing: shards go with their tokenizer"
    shutil.move(tmp_path / "aside", shards / "tokenizer")
    monkeypatch.setattr(sys, "argv", ["toto", *map(str, arguments)])
    main()
    assert (tmp_path / "out" / "results" / "pretrain.json").exists()


def test_a_folder_of_another_run_is_not_written_to(
    finished: Path,
    grey_shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["pretrain", "tiny", "--shards", grey_shards, "--out", finished / "pretrain"]
    line = refused(arguments, monkeypatch, capsys)
    assert "holds a run of another config (shards: " in line
    assert line.endswith("choose another --out, or remove the folder")


def test_a_forecast_longer_than_every_clip_is_refused(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["generate", "--run-folder", finished / "pretrain", "--data", finished / "data"]
    arguments += ["--out", tmp_path / "out", "--frames", "90"]
    line = refused(arguments, monkeypatch, capsys)
    assert line == ("no held-out clip has 98 frames; ask for fewer --prompt-frames or --frames")


def test_a_video_that_is_gone_is_named(
    videos: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = shutil.copytree(videos, tmp_path / "videos")
    options = ["--collection.stride", "1", "--collection.digit-clips.pretrain", "2"]
    ingest = ["ingest", "--videos", copy, *options, "--out", tmp_path / "data"]
    monkeypatch.setattr(sys, "argv", ["toto", *map(str, ingest)])
    main()
    capsys.readouterr()
    (copy / "ramp-1.mp4").unlink()
    arguments = ["tokenize", "--data", tmp_path / "data", "--tokenizer", "grey"]
    line = refused([*arguments, "--out", tmp_path / "shards"], monkeypatch, capsys)
    assert "ramp-1.mp4" in line
    assert "no such file" in line.lower()


def test_tokens_wider_than_the_clips_are_refused(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["tokenize", "--data", finished / "data", "--tokenizer", "gray"]
    line = refused([*arguments, "--out", tmp_path / "out"], monkeypatch, capsys)
    assert line.startswith("no tokenizer 'gray': known by name: toto-8k, grey; or give a fol")


def test_a_file_system_that_takes_no_more_is_one_line(grey_shards: Path, tmp_path: Path) -> None:
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        f"sys.argv = ['toto', 'pretrain', 'tiny', '--shards', {str(grey_shards)!r},"
        f" '--out', {str(tmp_path / 'out')!r}];"
        "from toto.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("toto: ")]
    assert len(lines) == 1
    assert "File too large" in lines[0]
    assert ".safetensors" in lines[0]
    assert not list((tmp_path / "out" / "checkpoints").glob("step-???????"))
