"""How far a set of clips is from a set of clips, by anybody's features of them.

The Fréchet video distance of the literature is that of one network, on some number of clips of one
length. Another network, count or length gives other numbers, so what is measured here has them all
in its name or beside it, and is never called by the bare name.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from toto.metrics.image import Moments, frechet_distance


@dataclass(frozen=True, kw_only=True, slots=True)
class SetDistance:
    """A squared Fréchet distance between the features of two sets.

    Attributes:
        name: with the extractor in it, and the number of components.
        value: at least 0.
        real_samples: of the first set.
        other_samples: of the second.
        components: how many numbers a sample has in the Gaussians that are compared.
    """

    name: str
    value: float
    real_samples: int
    other_samples: int
    components: int


def frechet_of_features(
    real: Float[np.ndarray, "N D"],
    other: Float[np.ndarray, "M D"],
    *,
    extractor: str,
    components: int,
) -> SetDistance:
    """Fréchet distance between the Gaussians of two sets of features.

    With fewer samples than features a covariance is singular and says nothing of most directions.
    Features are therefore laid on the first principal components of the real set, and each set must
    have more samples than there are components; with as many components as features it is the
    distance of the features themselves. The distance is biased upwards, the more so the fewer the
    samples: compare only what has the same counts.

    Args:
        real: features of the real clips, one row a clip.
        other: of those that are judged.
        extractor: what made the features, such as "run r1, layer 6, mean"; part of the name.
        components: K, at most D.

    Raises:
        ValueError: if the extractor has no name, the features differ in number or are not finite,
            there are not so many components, or too few samples for them.
    """
    if not extractor.strip():
        raise ValueError("a Fréchet distance without its extractor's name says nothing; name it")
    if real.ndim != 2 or other.ndim != 2 or real.shape[1] != other.shape[1]:
        raise ValueError(f"features {real.shape} against {other.shape}; give [N D] and [M D]")
    if not (np.isfinite(real).all() and np.isfinite(other).all()):
        raise ValueError(f"features of {extractor} are not all finite; check the extractor")
    width = real.shape[1]
    if not 1 <= components <= width:
        raise ValueError(f"{components} components of {width} features; give 1 to {width}")
    fewest = min(len(real), len(other))
    if fewest <= components:
        raise ValueError(
            f"a Fréchet distance of {components} components needs more than {components} samples "
            f"of each set, got {len(real)} and {len(other)}; give more clips or fewer components"
        )
    x, y = real.astype(np.float64), other.astype(np.float64)
    if components < width:
        # The real set alone decides the directions, so that none of the judged ones moves them.
        centre = x.mean(0)
        axes = np.linalg.svd(x - centre, full_matrices=False)[2][:components].T
        x, y = (x - centre) @ axes, (y - centre) @ axes
    return SetDistance(
        name=f"frechet({extractor}; {components} of {width} components)",
        value=frechet_distance(_moments(x), _moments(y)),
        real_samples=len(real),
        other_samples=len(other),
        components=components,
    )


def _moments(features: Float[np.ndarray, "N K"]) -> Moments:
    covariance = np.atleast_2d(np.cov(features, rowvar=False))
    return Moments(mean=features.mean(0), covariance=covariance, samples=len(features))
