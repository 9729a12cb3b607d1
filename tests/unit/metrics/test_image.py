import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.linalg import sqrtm
from torch import Tensor

from toto.metrics.image import Moments, dct_moments, frechet_dct, frechet_distance, ssim


def noise(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def ssim_by_hand(frame: np.ndarray, other: np.ndarray) -> float:
    """The definition window by window, with the two-dimensional Gaussian."""
    luma = [image @ np.array([0.299, 0.587, 0.114]) for image in (frame, other)]
    y, x = np.mgrid[-5:6, -5:6]
    weight = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for top in range(frame.shape[0] - 10):
        for left in range(frame.shape[1] - 10):
            a, b = (image[top : top + 11, left : left + 11] for image in luma)
            mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
            var_a, var_b = (weight * (a - mean_a) ** 2).sum(), (weight * (b - mean_b) ** 2).sum()
            both = (weight * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = 2.55**2, 7.65**2
            top_line = (2 * mean_a * mean_b + c1) * (2 * both + c2)
            values.append(top_line / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(values))


def test_ssim_is_that_of_the_definition() -> None:
    frames = noise(0, 2, 16, 19, 3)
    other = (frames.float() * 0.7 + noise(1, 2, 16, 19, 3) * 0.3).byte()
    expected = [ssim_by_hand(a.numpy(), b.numpy()) for a, b in zip(frames, other, strict=True)]
    np.testing.assert_allclose(ssim(frames, other), expected, atol=1e-12)
    assert 0.3 < expected[0] < 0.95


def test_equal_frames_are_similar_and_inverted_ones_are_not() -> None:
    frames = noise(0, 20, 16, 16, 3)
    assert torch.equal(ssim(frames, frames), torch.ones(20, dtype=torch.float64))
    assert (ssim(frames, 255 - frames) < 0).all()


def test_ssim_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match=r"frames \(1, 16, 16, 3\) against \(1, 16, 12, 3\)"):
        ssim(noise(0, 1, 16, 16, 3), noise(0, 1, 16, 12, 3))
    with pytest.raises(ValueError, match="SSIM needs sides of at least 11 px"):
        ssim(noise(0, 1, 10, 16, 3), noise(0, 1, 10, 16, 3))


def test_moments_are_those_of_the_blocks_one_by_one() -> None:
    frames = noise(0, 3, 20, 28, 3)
    samples = []
    for frame in frames.double().numpy():
        luma = frame @ [0.299, 0.587, 0.114]
        blue, red = (frame[..., 2] - luma) / 1.772, (frame[..., 0] - luma) / 1.402
        for top in (4, 12):
            for left in (4, 12, 20):
                place = np.s_[top : top + 8, left : left + 8]
                spectra = [dctn(plane[place], norm="ortho") for plane in (luma, blue, red)]
                samples.append(np.log1p(np.abs(np.stack(spectra))).reshape(-1))
    moments = dct_moments(frames)
    assert moments.samples == len(samples) == 18
    np.testing.assert_allclose(moments.mean, np.mean(samples, axis=0), atol=1e-4)
    np.testing.assert_allclose(
        moments.covariance, np.cov(np.transpose(samples), bias=True), atol=1e-4
    )


def test_the_distance_of_known_gaussians() -> None:
    random = np.random.default_rng(0)
    a, b = (m @ m.T for m in random.normal(size=(2, 5, 5)))
    mean_a, mean_b = random.normal(size=(2, 5))
    one = Moments(mean=mean_a, covariance=a, samples=1)
    other = Moments(mean=mean_b, covariance=b, samples=1)
    expected = np.square(mean_a - mean_b).sum() + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet_distance(one, other) == pytest.approx(expected)
    assert frechet_distance(other, one) == pytest.approx(expected)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="5 features against 2"):
        frechet_distance(one, Moments(mean=mean_a[:2], covariance=a[:2, :2], samples=1))


def test_blur_noise_and_false_colour_are_each_told_apart() -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    waves = torch.stack([(x * k + y * (9 - k)) * 8 % 256 for k in range(8)])
    frames = waves[..., None].expand(-1, -1, -1, 3).byte().contiguous()
    assert frechet_dct(frames, frames) == pytest.approx(0, abs=1e-6)
    small = torch.nn.functional.avg_pool2d(frames.float().permute(0, 3, 1, 2), 2)
    blurred = torch.nn.functional.interpolate(small, scale_factor=2).permute(0, 2, 3, 1).byte()
    noisy = (frames.int() + noise(0, *frames.shape) // 16 - 8).clamp(0, 255).byte()
    coloured = frames.clone()
    coloured[..., 2] //= 2
    assert min(frechet_dct(frames, other) for other in (blurred, noisy, coloured)) > 1
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert frechet_dct(frames, frames[order]) == pytest.approx(0, abs=1e-6)


def test_a_block_must_fit() -> None:
    with pytest.raises(ValueError, match="a block needs sides of 12 px"):
        dct_moments(noise(0, 1, 11, 16, 3))
