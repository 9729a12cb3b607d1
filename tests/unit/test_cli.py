"""The command line by itself: verbs, recipes, fields, help, and how it ends."""

import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from toto.cli import VERBS, main, verbs
from toto.cli.options import unboxed
from toto.recipes import PRETRAIN
from toto.runtime import durable

Run = Callable[..., tuple[int, str, str]]
PYTHON = sys.executable


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call `toto ARGUMENTS` in this process; gives exit status, output and error output."""
    monkeypatch.delenv("TOTO_TRACEBACK", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["toto", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 0
        else:
            status = 0
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def one_line(error: str) -> str:
    assert error.endswith("\n")
    assert error.count("\n") == 1, error
    assert error.startswith("toto: ")
    return error[len("toto: ") : -1]


def test_help_lists_every_verb(run: Run) -> None:
    for arguments, status in ((["--help"], 0), (["-h"], 0), ([], 2)):
        code, out, err = run(*arguments)
        assert code == status
        assert err == ""
        for verb, what in VERBS.items():
            assert re.search(rf"^  {verb} +{re.escape(what)}$", out, flags=re.MULTILINE)


def test_version(run: Run) -> None:
    assert run("--version") == (0, "toto 0.1.0\n", "")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, run: Run) -> None:
    code, out, err = run(verb, "--help")
    assert (code, err) == (0, "")
    assert f"usage: toto {verb}" in out


@pytest.mark.parametrize(
    ("verb", "field", "text"),
    [
        (["pretrain"], "--held-out", "Shards for validation; never trained on"),
        (["pretrain", "tiny"], "--model.vocab-size", "Ids the model can read and predict"),
        (["tokenizer", "train"], "--method.temperature-share", "Share of the run over which"),
        (["tokenizer", "train"], "--sources.images", "Folder of still images"),
        (["ingest"], "--collection.stride", "Every how many-th frame"),
        (["tokenize"], "--crops", "Random squares taken of every clip of a training"),
        (["probe"], "--run-folder", "Folder of the pre-training run"),
        (["track"], "--test-clips", "Other clips, of other digits"),
        (["generate"], "--pictures", "For how many clips a strip"),
        (["stream"], "--window-frames", "How many frames a token sees"),
        (["demo"], "--pretrain.precision", "`fp32`, `bf16`, or `auto`"),
        (["report"], "--out", "Folder of the run"),
        (["doctor"], "--folder", "Where runs are to be written"),
    ],
)
def test_help_shows_the_text_of_a_field(verb: list[str], field: str, text: str, run: Run) -> None:
    _, out, _ = run(*verb, "--help")
    plain = " ".join(re.sub("[│╭╮╰╯─]", " ", out).split())
    assert field in plain
    assert text in plain


def test_an_unknown_verb_is_named_with_the_nearest(run: Run) -> None:
    code, out, err = run("pretrian")
    assert (code, out) == (2, "")
    assert one_line(err) == (
        "no verb 'pretrian' (did you mean 'pretrain'?); `toto --help` lists them"
    )
    assert one_line(run("zzz")[2]) == "no verb 'zzz'; `toto --help` lists them"


def test_an_unknown_recipe_is_named_with_the_nearest(run: Run) -> None:
    known = ", ".join(PRETRAIN)
    for verb in (["pretrain"], ["show", "pretrain"]):
        code, _, err = run(*verb, "tny")
        assert code == 2
        assert one_line(err) == f"no recipe 'tny' (did you mean 'tiny'?); there are: {known}"
        code, _, err = run(*verb)
        assert code == 2
        assert one_line(err).endswith(f"needs a recipe: {known}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pretrain tiny --lrr 3", "Unrecognized options: --lrr, 3; Perhaps you meant: --lr FLOAT"),
        ("pretrain tiny --lr abc", "--lr: could not convert string to float: 'abc'"),
        ("pretrain tiny --steps", "--steps"),
        ("pretrain tiny --steps 0", "steps 0 must be at least 1"),
        ("pretrain tiny --model.heads 3", "heads"),
        ("pretrain tiny --model.widht 3", "Perhaps you meant: --model.width INT"),
        ("pretrain tiny --layout.specials both", "inside"),
        ("demo --video x", "--video"),
        ("tokenize", "Missing from toto tokenize: --data"),
        ("tokenizer trian", "no verb 'trian' (did you mean 'train'?); `toto tokenizer` has: train"),
        ("show", "`toto show` takes: pretrain RECIPE, such as `toto show pretrain 1b`"),
        ("list x", "`toto list` takes nothing more, got 'x'"),
        ("track --run-folder a --data b --protocol x", "protocol 'x' is unknown; there are: "),
        ("generate --run-folder a --data b --frames 0", "prompt_frames 8 and frames 0 must be"),
        ("stream a b.mp4 --every 0", "every 0 must be at least 1"),
        ("stream a", "Missing from toto stream: --video"),
        ("ingest --collection.side-px 64", "set frames and side-px of both --collection and"),
        ("doctor --fold x", "Perhaps you meant: --folder PATH"),
    ],
)
def test_a_wrong_field_is_one_line_that_names_it(arguments: str, message: str, run: Run) -> None:
    code, out, err = run(*arguments.split())
    assert (code, out) == (2, "")
    assert message in one_line(err)
    assert not set(err) & set("│╭╰─\x1b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("ingest --videos {}", "nowhere is not a folder; point to a folder"),
        ("demo --videos {}", "nowhere is not a folder; point to a folder"),
        ("tokenizer train --sources.clips {}", "nowhere is not a run folder"),
        ("tokenizer train --sources.images {}", "nowhere is not a folder; point to a folder with"),
        ("tokenizer train", "nothing to train on: give --sources.images or --sources.clips"),
        ("tokenize --data {} --tokenizer grey", "nowhere is not a run folder"),
        ("pretrain tiny --shards {}", "has no token set 'clips/pretrain' (it has: none); `toto"),
        ("probe --run-folder {}", "nowhere is not a run folder"),
        ("track --run-folder {0} --data {0}", "nowhere is not a run folder"),
        ("generate --run-folder {0} --data {0}", "nowhere is not a run folder"),
        ("stream {0} {0}.mp4", "nowhere is not a run folder"),
    ],
)
def test_a_missing_input_is_one_line(
    arguments: str, message: str, run: Run, tmp_path: Path
) -> None:
    words = arguments.format(tmp_path / "nowhere").split()
    code, out, err = run(*words, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert message in one_line(err)


def test_report_wants_a_folder_with_stages(run: Run, tmp_path: Path) -> None:
    code, _, err = run("report", "--out", tmp_path)
    assert code == 2
    assert f"{tmp_path} holds no run" in one_line(err)


def test_empty_and_videoless_folders(run: Run, tmp_path: Path) -> None:
    empty, texts = tmp_path / "empty", tmp_path / "texts"
    empty.mkdir()
    texts.mkdir()
    (texts / "a.txt").write_text("a")
    for folder, message in (
        (empty, f"{empty} has no file; point to a folder with videos"),
        (texts, f"{texts}: none of 1 clips can be used; the first, a.txt: a text file"),
    ):
        code, _, err = run("ingest", "--videos", folder, "--out", tmp_path / f"{folder.name}-out")
        assert code == 2
        # Progress bars stand above the one line that says what is wrong.
        assert message in one_line(err[err.index("toto: ") :])


def test_out_that_is_no_run_folder(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    code, _, err = run("ingest", "--out", out)
    assert code == 2
    assert "is not a run folder and holds other files (thesis.tex); choose" in one_line(err)
    code, _, err = run("ingest", "--out", out / "thesis.tex" / "below")
    assert code == 1
    assert "thesis.tex" in one_line(err)


def test_a_full_disk_is_one_line_and_status_1(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "_write_all", full)
    code, out, err = run("ingest", "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert "the disk or the quota is full" in one_line(err)
    assert "free space there or choose another folder" in one_line(err)


def test_our_own_faults_are_one_line_that_asks_for_a_report(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(rest: list[str]) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setitem(verbs.RUN, "list", broken)
    code, _, err = run("list")
    assert code == 1
    assert one_line(err) == (
        "RuntimeError: two lines (our fault; TOTO_TRACEBACK=1 shows where, please report it)"
    )


@pytest.mark.parametrize("error", [ValueError("a"), OSError("b"), RuntimeError("c")])
def test_the_traceback_is_there_for_those_who_ask(
    error: Exception, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(rest: list[str]) -> None:
        raise error

    monkeypatch.setitem(verbs.RUN, "list", broken)
    assert run("list")[0] in (1, 2)
    monkeypatch.setenv("TOTO_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["toto", "list"])
    with pytest.raises(type(error), match=str(error)):
        main()


def test_ctrl_c_is_status_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(rest: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(verbs.RUN, "list", stopped)
    code, _, err = run("list")
    assert code == 130
    assert one_line(err) == "interrupted; what was finished is kept"


def test_a_file_that_vanished_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(verbs.RUN, "list", lambda rest: Path("gone.json").read_text())
    code, _, err = run("list")
    assert code == 2
    assert one_line(err) == "gone.json: no such file or folder"


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    command = f"{PYTHON} -m toto --help | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("u", "")


def test_list_names_what_there_is(run: Run) -> None:
    code, out, _ = run("list")
    assert code == 0
    for name in ("tiny", "1b", "grey", "dvae", "llama", "demo", "folder", "base"):
        assert re.search(rf"^  {name}\b", out, flags=re.MULTILINE), name


def test_show_prints_costs_and_the_config(run: Run) -> None:
    code, out, _ = run("show", "pretrain", "tiny", "--steps", "7")
    assert code == 0
    assert re.search(r"^parameters +\d", out, flags=re.MULTILINE)
    assert '"steps": 7' in out


BOXED = """\
\x1b[31m╭─ Value error ───────────╮\x1b[0m
│ Error parsing --lr:     │
│   no number             │
│ ─────────────────────── │
│ it is a-b               │
│ ─────────────────────── │
│ For full helptext, see  │
╰─────────────────────────╯
"""
PLAIN = """\
 Value error
 -------------------------
  Error parsing --lr:
    no number
  -----------------------
  it is a-b
  -----------------------
  For full helptext, see

"""


@pytest.mark.parametrize("complaint", [BOXED, PLAIN])
def test_unboxed_keeps_the_words_of_a_complaint(complaint: str) -> None:
    assert unboxed(complaint) == "Error parsing --lr: no number; it is a-b"


def best_of_five(*arguments: str) -> float:
    def once() -> float:
        began = time.perf_counter()
        subprocess.run([PYTHON, *arguments], check=True, capture_output=True)
        return time.perf_counter() - began

    return min(once() for _ in range(5))


def test_help_and_import_are_quick() -> None:
    assert best_of_five("-m", "toto", "--help") < 0.4
    assert best_of_five("-c", "import toto") < 0.4


def test_help_and_import_leave_heavy_packages_alone() -> None:
    program = (
        "import sys, runpy; sys.argv = ['toto', '--help']\n"
        "try: runpy.run_module('toto', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'av', 'tyro', 'rich', 'matplotlib', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_toto_and_python_m_toto_are_the_same() -> None:
    script = Path(PYTHON).with_name("toto")
    if not script.exists():
        pytest.skip("toto is not installed as a script beside this Python")
    outputs = [
        subprocess.run([*command, "--help"], capture_output=True, check=True).stdout
        for command in ([str(script)], [PYTHON, "-m", "toto"])
    ]
    assert outputs[0] == outputs[1]
