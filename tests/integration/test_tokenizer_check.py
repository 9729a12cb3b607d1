"""The demo's second stage: what a tokenizer keeps of the held-out frames of a data folder."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toto.jobs.tokenizer_check import TokenizerCheck
from toto.tokenizers import VQVAEConfig, save_tokenizer


def check(finished: Path, tokenizer: object = "grey") -> TokenizerCheck:
    return TokenizerCheck(
        data=finished / "data", tokenizer=str(tokenizer), clip_frames=24, digit_frames=16
    )


def test_a_tokenizer_is_measured_on_all_frames_that_were_asked_for(
    finished: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    result = check(finished, small_tokenizer).run(tmp_path / "out")
    assert result == json.loads((tmp_path / "out/results/tokenizer.json").read_text())
    assert (result["name"], result["vocab_size"], result["patch_px"]) == ("vqvae", 32, 8)
    assert result["frames"] == 24 + 16
    assert 1 < result["used_codes"] <= 32
    picture = np.asarray(Image.open(tmp_path / "out" / "reconstructions.png"))
    assert picture.shape == (2 * 2 * 32, 12 * 2 * 32, 3)
    assert picture.std() > 10


def test_grey_draws_better_than_random_weights(
    finished: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    grey = check(finished).run(tmp_path / "grey")
    random = check(finished, small_tokenizer).run(tmp_path / "random")
    assert grey["parameters"] == 0
    assert grey["psnr_db"] > random["psnr_db"]
    # On the same frames: what the mean colours reach says so.
    assert grey["psnr_db_mean_colour"] == random["psnr_db_mean_colour"]


def test_the_shipped_tokenizer_is_the_one_by_default(finished: Path, tmp_path: Path) -> None:
    result = TokenizerCheck(data=finished / "data", clip_frames=24).run(tmp_path / "out")
    assert (result["vocab_size"], result["patch_px"]) == (8192, 8)
    assert result["frames"] == 24 + 300
    assert result["psnr_db"] > result["psnr_db_mean_colour"]


def test_a_seed_chooses_the_frames(finished: Path, tmp_path: Path) -> None:
    job = check(finished)
    one, same = job.run(tmp_path / "one"), job.run(tmp_path / "same")
    other = replace(job, seed=1).run(tmp_path / "other")
    assert one == same
    assert one["psnr_db"] != other["psnr_db"]


def test_a_finished_check_is_not_done_again(finished: Path, tmp_path: Path) -> None:
    first = check(finished).run(tmp_path / "out")
    written = (tmp_path / "out" / "reconstructions.png").stat().st_mtime_ns
    assert check(finished).run(tmp_path / "out") == first
    assert (tmp_path / "out" / "reconstructions.png").stat().st_mtime_ns == written


def test_rejects_what_does_not_fit(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tokenizer 'gray': known by name: toto-8k, grey; or"):
        check(finished, "gray").run(tmp_path / "a")
    with pytest.raises(ValueError, match="is not a run folder"):
        check(finished / "nowhere").run(tmp_path / "b")
    wide = VQVAEConfig(
        vocab_size=4, width=8, residual_width=4, code_width=2, halvings=6, encoder_blocks=0
    )
    save_tokenizer(wide.build(), tmp_path / "wide")
    with pytest.raises(ValueError, match="frames of 32x32 px do not divide into patches of 64 px"):
        check(finished, tmp_path / "wide").run(tmp_path / "c")
    with pytest.raises(ValueError, match="clip_frames 3: 0, or at least 10"):
        replace(check(finished), clip_frames=3).run(tmp_path / "d")
