import numpy as np
import pytest
from scipy.linalg import sqrtm

from toto.metrics.distributions import frechet_of_features


def made(samples: int, *, seed: int, shift: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(6, 6))
    return random.normal(size=(samples, 6)) @ mixing + shift


def by_hand(x: np.ndarray, y: np.ndarray) -> float:
    c, d = np.cov(x.T), np.cov(y.T)
    root = np.real(sqrtm(c @ d))
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c + d - 2 * root))


def test_all_components_give_the_distance_of_the_features() -> None:
    x, y = made(40, seed=0), made(50, seed=1, shift=0.5)
    found = frechet_of_features(x, y, extractor="made, layer 2", components=6)
    assert found.value == pytest.approx(by_hand(x, y))
    assert found.name == "frechet(made, layer 2; 6 of 6 components)"
    assert (found.real_samples, found.other_samples, found.components) == (40, 50, 6)
    same = frechet_of_features(x, x[::-1].copy(), extractor="made", components=6)
    assert same.value == pytest.approx(0, abs=1e-9)


def test_fewer_components_are_the_directions_in_which_the_real_ones_vary_most() -> None:
    x, y = made(40, seed=0), made(40, seed=1, shift=0.5)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    axes = vectors[:, np.argsort(values)[::-1][:2]]
    found = frechet_of_features(x, y, extractor="made", components=2)
    assert found.value == pytest.approx(by_hand(x @ axes, y @ axes))
    other_way = frechet_of_features(y, x, extractor="made", components=2)
    assert other_way.value != pytest.approx(found.value, rel=1e-6)


def test_more_features_than_samples_are_no_obstacle_to_few_components() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 8, 100))
    with pytest.raises(
        ValueError, match=r"100 components needs more than 100 samples.*got 8 and 8"
    ):
        frechet_of_features(x, y, extractor="made", components=100)
    assert frechet_of_features(x, y, extractor="made", components=4).value > 0


@pytest.mark.parametrize(
    ("x", "y", "extractor", "components", "message"),
    [
        (made(9, seed=0), made(9, seed=1), " ", 2, "without its extractor's name"),
        (made(9, seed=0), made(9, seed=1)[:, :5], "made", 2, r"features \(9, 6\) against \(9, 5\)"),
        (made(9, seed=0), made(9, seed=1) * np.nan, "made", 2, "of made are not all finite"),
        (made(9, seed=0), made(9, seed=1), "made", 7, "7 components of 6 features; give 1 to 6"),
        (made(9, seed=0), made(9, seed=1), "made", 0, "0 components of 6 features"),
        (made(9, seed=0), made(4, seed=1), "made", 4, "more than 4 samples .* got 9 and 4"),
    ],
)
def test_what_would_mean_nothing_is_refused(
    x: np.ndarray, y: np.ndarray, extractor: str, components: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_of_features(x, y, extractor=extractor, components=components)
