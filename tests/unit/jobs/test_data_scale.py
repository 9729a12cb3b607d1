"""What tokenising many hours takes: the arithmetic, and every number of docs/scale.md again."""

import re
from pathlib import Path

import pytest

from toto.jobs.data_scale import DataScale

PAGE = Path(__file__).parents[3] / "docs/scale.md"


def scale(**fields: float) -> DataScale:
    settings = {"decode_frames_s": 1000, "encode_frames_s": 100} | fields
    return DataScale(**settings)


def cells(heading: str) -> list[list[str]]:
    """Rows of the table below a heading of the page, without its head."""
    text = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_hours_of_howto100m_give_the_page_s_numbers() -> None:
    rows = cells("HowTo100M, every 4th frame, one crop")
    said = {name.removesuffix(" at 1 Mbit/s (assumed)"): value for name, value in rows}
    computed = dict(scale().describe())
    assert len(said) == 5
    assert said == {name: computed[name] for name in said}


def test_the_machines_of_the_page_are_computed() -> None:
    checked = 0
    for name, encoders, decode, encode, *said in cells("Machines"):
        rates = {"encode_frames_s": number(encode), "encoders": int(encoders)}
        known = "?" not in decode
        job = scale(**rates, **({"decode_frames_s": number(decode)} if known else {}))
        computed = [
            f"{job.decode_core_hours:,.0f}",
            f"{job.encode_hours:,.0f}",
            f"{job.machine_days:,.1f}",
            f"{job.machines_for_a_week:,}",
        ]
        if not known:
            # Only the encoder's hours do not depend on the rate that is missing.
            computed = ["?", computed[1], "?", "?"]
        assert said == computed, name
        checked += known
    assert checked >= 3


def test_the_sentences_of_the_page_hold() -> None:
    page = " ".join(PAGE.read_text().split())
    gpu = scale(encode_frames_s=5800, encoders=1)
    assert "it needs 23,200 source frames a second" in page
    assert gpu.cores_an_encoder * 1000 == pytest.approx(23_200)
    assert "by a factor of 76 at 1,000 frames/s/core" in page
    dvae = scale(encode_frames_s=3.3)
    assert dvae.encode_hours / dvae.decode_core_hours == pytest.approx(76, abs=0.5)
    read_mbit_s = gpu.video_bytes * 8e-6 / (gpu.encode_hours * 3600)
    assert f"= {read_mbit_s:,.0f} Mbit/s at 1 Mbit/s of video" in page
    write_mb_s = gpu.token_bytes / 1e6 / (gpu.encode_hours * 3600)
    assert f"= {write_mb_s:.1f} MB/s of tokens" in page
    shards = gpu.encoded_frames / 8192
    assert f"{round(shards, -3):,.0f} shards of the default size" in page
    assert f"{shards * 88e3 / 1e9:.0f} GB (2 %) in shards of 8,192 frames" in page
    assert f"{gpu.encoded_frames / 65536 * 88e3 / 1e9:.1f} GB (0.3 %)" in page


def number(text: str) -> float:
    return float(re.sub(r"[^0-9.]", "", text))


def test_a_machine_is_as_fast_as_its_slower_half() -> None:
    # 16 cores decode 16,000 source frames/s, of which 4,000 are kept.
    assert scale(encoders=1, encode_frames_s=1e6).machine_frames_s == 16_000
    assert scale(encoders=1, encode_frames_s=1000).machine_frames_s == 4000
    assert scale(encoders=2, encode_frames_s=1000).machine_frames_s == 8000
    assert scale(encoders=1, encode_frames_s=1000, crops=4).machine_frames_s == 1000


def test_cores_that_do_both_take_turns() -> None:
    job = scale(encode_frames_s=250)
    # 4 source frames: 4 ms of decoding and 4 ms of encoding, on each of 16 cores.
    assert job.machine_frames_s == pytest.approx(16 * 4 / 0.008)
    days = (job.decode_core_hours + job.encode_hours) / 16 / 24
    assert job.machine_days == pytest.approx(days)


def test_crops_cost_encoding_and_disk_and_no_decoding() -> None:
    one, four = scale(), scale(crops=4)
    assert four.decode_core_hours == one.decode_core_hours
    assert four.encode_hours == pytest.approx(4 * one.encode_hours)
    assert four.token_bytes == pytest.approx(4 * one.token_bytes)


def test_an_hour_at_one_megabit() -> None:
    job = scale(hours=1, video_mbit_s=8)
    assert job.source_frames == pytest.approx(107_892, rel=1e-5)
    assert job.video_bytes == pytest.approx(3.6e9)
    assert job.token_bytes == pytest.approx(107_892 / 4 * 512, rel=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("decode_frames_s", 0), ("hours", -1), ("encode_frames_s", float("nan")), ("cores", 0)],
)
def test_rates_that_make_no_sense_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} {value} must be above 0"):
        scale(**{field: value})
    with pytest.raises(ValueError, match="encoders -1 must be at least 0"):
        scale(encoders=-1)
