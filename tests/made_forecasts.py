"""What `toto generate` reports, made up: for tests of what reads it."""

import math
from typing import Any


def forecasts() -> dict[str, Any]:
    """Of real clips, where the forecast wins from frame 3 on, and of one made clip, where not."""
    ahead = range(8)
    copied = [17.4 - 3.4 * math.log1p(n) / 1.6 for n in ahead]
    real = {
        "psnr_db": {
            "forecast": [18.6 - 0.72 * n for n in ahead],
            "best of 3": [18.9 - 0.52 * n for n in ahead],
            "copy last frame": copied,
            "tokenizer limit": [21.4 + 0.1 * math.sin(n) for n in ahead],
        },
        "ssim": {
            "forecast": [0.62 - 0.02 * n for n in ahead],
            "best of 3": [0.63 - 0.015 * n for n in ahead],
            "copy last frame": [0.7 - 0.03 * n for n in ahead],
            "tokenizer limit": [0.81] * 8,
        },
    }
    made = {"psnr_db": {"forecast": [15.0] * 8, "copy last frame": copied}}
    return {
        "prompt_frames": 8,
        "frames": 8,
        "futures": 3,
        "window_frames": 8,
        "kept_frames": 4,
        "uniform_nats": math.log(512),
        "measures": {
            "psnr_db": {"label": "PSNR", "unit": "dB", "higher_is_closer": True, "decimals": 1},
            "ssim": {"label": "SSIM", "unit": "", "higher_is_closer": True, "decimals": 2},
        },
        "groups": {
            "real clips": _group(
                real, clips=6, videos=4, sentence="By PSNR the forecast is better from frame 3 on."
            ),
            "moving digits": _group(
                made, clips=1, videos=1, sentence="By PSNR the forecast is worse at every frame."
            ),
        },
        "set_distances": [
            {
                "name": "frechet(demo 0f3a9c21, layer 3; 4 of 192 components)",
                "method": method,
                "first_frame": 1,
                "last_frame": 8,
                "value": value,
                "real_samples": 6,
            }
            for method, value in (("forecast", 2.5), ("copy last frame", 0.75))
        ],
        "tokens_per_s": 212.0,
        "temperature": 1.0,
        "seed": 0,
        "sources": ["street.mp4", "digits-1"],
    }


def _group(
    curves: dict[str, dict[str, list[float]]], *, clips: int, videos: int, sentence: str
) -> dict[str, Any]:
    def curve(mean: list[float], spread: float) -> dict[str, Any]:
        return {"mean": mean, "deviation": [spread] * len(mean) if clips > 1 else None}

    better = [3, 4, 5, 6, 7, 8] if clips > 1 else []
    groups = {
        name: {m: curve(mean, 0.06 * mean[0]) for m, mean in methods.items()}
        for name, methods in curves.items()
    }
    if clips > 1:
        for methods in groups.values():
            methods["forecast"]["deviation_of_futures"] = [0.3] * 8
    surprise = {"forecast": [2.4] * 8, "real": [3.1 + 0.1 * n for n in range(8)]}
    return {
        "clips": clips,
        "videos": videos,
        "curves": groups,
        "verdicts": {"psnr_db": {"better": better, "worse": [1], "sentence": sentence}},
        "surprise_nats": {which: curve(mean, 0.4) for which, mean in surprise.items()},
        "of_clips": [
            {
                "source": f"clip-{number}.mp4",
                "means": {
                    name: {m: mean[0] + number for m, mean in methods.items()}
                    for name, methods in curves.items()
                },
            }
            for number in range(clips)
        ],
    }
