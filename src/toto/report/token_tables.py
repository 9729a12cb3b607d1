"""Tables of what was measured of tokenizers, as text; from the results' JSON alone."""

from collections.abc import Mapping
from typing import Any

_HEADERS = (
    "tokenizer",
    "codes used",
    "perplexity",
    "bits/px",
    "PSNR dB",
    "SSIM",
    "frechet_dct",
    "still flips",
    "clip flips",
    "tokens/s",
)


def bench_table(result: Mapping[str, Any]) -> str:
    """Give `results/tokenizer_bench.json` as a Markdown page, one row a tokenizer."""
    lines = [
        "# Tokenizers side by side",
        "",
        f"Measured on {_set(result['frames'])}.",
        "",
        "| " + " | ".join(_HEADERS) + " |",
        "|---" + "|---:" * (len(_HEADERS) - 1) + "|",
    ]
    for label, row in result["tokenizers"].items():
        lines.append("| " + " | ".join(_cells(label, row)) + " |")
    clips = result["clips"]
    moving = "not measured, no clips were given"
    if clips:
        moving = f"the same between successive kept frames of {_set(clips)}"
    lines += [
        "",
        "- codes used: of those there are. Perplexity: how many equally used codes would be as "
        "varied.",
        "- bits/px: log2 of the number of codes, over the pixels of a patch.",
        "- PSNR, SSIM (luma): means over frames, against the originals; more is closer.",
        "- frechet_dct: distance of the block spectra of all reconstructions to those of the "
        f"originals; less is closer, and {result['frechet_dct_halves']:.1f} lies between two "
        "halves of the originals. It is not FID.",
        "- still flips: tokens that change from frame to frame on still images with Gaussian noise "
        f"of {result['noise_sigma']:g} grey level.",
        f"- clip flips: {moving}.",
        f"- tokens/s: encoding, on {result['device']}, {result['threads']} threads, "
        f"{result['batch']} frames at once.",
        "",
    ]
    return "\n".join(lines)


def stats_table(result: Mapping[str, Any]) -> str:
    """Give `results/tokenizer_stats.json` as a few aligned lines for a terminal."""
    tokenizer, close, flips = (result[key] for key in ("tokenizer", "reconstruction", "flips"))
    lines = [("measured on", _set(result["frames"]))]
    for ngrams in result["ngrams"]:
        text = (
            f"{ngrams['distinct']:,} distinct of {ngrams['total']:,}, "
            f"{ngrams['entropy_nats']:.2f} nats, perplexity {ngrams['perplexity']:,.0f}"
        )
        if ngrams["n"] == 1:
            text += f"; {_percent(ngrams['coverage'])} of {tokenizer['vocab_size']:,} codes used"
        lines.append((f"{ngrams['n']}-grams", text))
    if close is not None:
        text = (
            f"PSNR {close['psnr_db']:.1f} dB, SSIM {close['ssim']:.3f}, frechet_dct "
            f"{close['frechet_dct']:.1f} (halves of the originals: "
            f"{result['frechet_dct_halves']:.1f}; not FID)"
        )
        lines.append(("reconstruction", text))
    still = ", ".join(
        f"{_percent(rate)} at noise {sigma}" for sigma, rate in flips["still"].items()
    )
    lines.append(("flips, still", still))
    if flips["clips"] is not None:
        lines.append(("flips, clips", f"{_percent(flips['clips'])} between kept frames"))
    kept = result["stability"]["kept"].items()
    lines.append(("tokens kept", ", ".join(f"{k}: {_percent(v)}" for k, v in kept)))
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"{name:<{width}}{text}" for name, text in lines)


def row_label(label: str, row: Mapping[str, Any]) -> str:
    """Name a row of pictures: the tokenizer, its size, how close it draws."""
    tokenizer, close = row["tokenizer"], row["reconstruction"]
    size = f"{tokenizer['vocab_size']:,} codes\n{tokenizer['patch_px']} px patches"
    return f"{label}\n{size}\n{close['psnr_db']:.1f} dB PSNR"


def _cells(label: str, row: Mapping[str, Any]) -> list[str]:
    codes, close, flips = row["ngrams"][0], row["reconstruction"], row["flips"]
    return [
        label.replace("|", "\\|"),
        f"{codes['distinct']:,} of {row['tokenizer']['vocab_size']:,} "
        f"({_percent(codes['coverage'])})",
        f"{codes['perplexity']:,.1f}",
        f"{row['tokenizer']['bits_per_pixel']:.4f}",
        *(
            [f"{close['psnr_db']:.2f}", f"{close['ssim']:.3f}", f"{close['frechet_dct']:.1f}"]
            if close is not None
            else ["-"] * 3
        ),
        _percent(flips["still"]),
        _percent(flips["clips"]),
        f"{row['tokens_per_s']:,.0f}",
    ]


def _set(frames: Mapping[str, Any]) -> str:
    return (
        f"{frames['frames']:,} frames of {frames['files']:,} {frames['kind']} "
        f"({frames['name']}, sha256 {frames['sha256'][:12]}), {frames['side_px']} px, "
        f"{frames['resize_filter']}"
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
