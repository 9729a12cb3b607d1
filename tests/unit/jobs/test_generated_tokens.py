from pathlib import Path

import pytest
import torch

from made_run_folders import CODES, GRID, save_run, strange
from toto.jobs.generated_tokens import GeneratedTokens, generate_tokens
from toto.jobs.progress import bar
from toto.models import LlamaConfig
from toto.models.sampling import SamplingConfig
from toto.probe.backbone import Backbone, open_backbone
from toto.probe.forecast import WindowConfig, surprise_nats

MODEL = LlamaConfig(vocab_size=CODES + 3, width=32, depth=2, heads=2, mlp_width=64, context=66)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("runs") / "run"
    save_run(out, strange(MODEL))
    return open_backbone(out)


def generated(backbone: Backbone) -> GeneratedTokens:
    """Two clips of 9 frames, of which 3 are shown; a window holds 4."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(CODES, (2, 9, *GRID), dtype=torch.int32, generator=generator)
    with bar("test", 0, shown=False) as progress:
        return generate_tokens(
            backbone,
            real,
            prompt_frames=3,
            futures=2,
            sampling=SamplingConfig(),
            window=WindowConfig(),
            weights="fp32",
            progress=progress,
        )


def test_every_clip_has_its_futures_beyond_the_context(backbone: Backbone) -> None:
    found = generated(backbone)
    assert found.forecast.shape == found.forecast_surprise_nats.shape == (2, 2, 6, *GRID)
    assert found.real_surprise_nats.shape == found.real.shape == (2, 9, *GRID)
    assert not torch.equal(found.forecast[:, 0], found.forecast[:, 1])
    assert (found.forecast_surprise_nats >= 0).all()


def test_clips_alone_and_together_go_on_alike(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = generated(backbone)
    monkeypatch.setattr("toto.jobs.generated_tokens.ROWS", 1)
    alone = generated(backbone)
    assert torch.equal(together.forecast, alone.forecast)


def test_each_real_token_is_read_behind_at_least_the_frames_that_a_window_keeps(
    backbone: Backbone,
) -> None:
    found = generated(backbone)
    clip, surprise = found.real[0].long(), found.real_surprise_nats[0]
    # A window holds 4 frames and the next begins with the newest 2.
    torch.testing.assert_close(surprise[:4], surprise_nats(backbone, clip[:4]))
    torch.testing.assert_close(surprise[4:6], surprise_nats(backbone, clip[2:6])[2:])
    torch.testing.assert_close(surprise[8:], surprise_nats(backbone, clip[6:9])[2:])


def test_the_first_surprise_at_a_forecast_is_that_of_a_pass_over_it(backbone: Backbone) -> None:
    found = generated(backbone)
    clip = torch.cat([found.real[1, :3], found.forecast[1, 1, :1]]).long()
    torch.testing.assert_close(
        found.forecast_surprise_nats[1, 1, 0],
        surprise_nats(backbone, clip)[3],
        rtol=1e-4,
        atol=1e-5,
    )


def test_tokens_are_read_back_as_they_were_written(backbone: Backbone, tmp_path: Path) -> None:
    found = generated(backbone)
    file = tmp_path / "forecasts.safetensors"
    first = found.save(file)
    again = GeneratedTokens.load(file)
    assert torch.equal(again.forecast, found.forecast)
    assert torch.equal(again.real_surprise_nats, found.real_surprise_nats)
    assert found.save(file) == first
    file.write_bytes(b"{}")
    with pytest.raises(ValueError, match="does not hold the tokens of forecasts"):
        GeneratedTokens.load(file)
