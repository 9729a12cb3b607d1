"""What is minimised by a model that reads patches: the next token, or the next patch.

The paper's Table 3 has both beside the models that read ids: patch-dVAE and patch-patch.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor, nn

from toto.tokenizers.patches import PatchNormalisation, patchify, targets
from toto.types import Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchObjective:
    """Losses of batches that carry their frames.

    Attributes:
        patch_px: side of a patch; the layout has as many places a frame.
        normalisation: of the values going in, and of those that are predicted.
    """

    patch_px: int
    normalisation: PatchNormalisation

    def next_token(self, model: nn.Module, batch: Batch) -> Tensor:
        """Weighted mean cross-entropy of the next token, in nats; the model's own sum of it."""
        return model(
            batch.ids[:, :-1],
            patches=_shifted(self._patches(batch), batch),
            targets=batch.ids[:, 1:],
            weight=batch.weight / batch.weight.sum(),
        )

    def token_losses(self, model: nn.Module, batch: Batch) -> Float32[Tensor, "B L"]:
        """Cross-entropy of every target, in nats; computed in fp32."""
        logits_BLV = model(batch.ids[:, :-1], patches=_shifted(self._patches(batch), batch))
        losses = F.cross_entropy(
            logits_BLV.float().flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none"
        )
        return losses.view(batch.weight.shape)

    def next_patch(self, model: nn.Module, batch: Batch) -> Tensor:
        """Weighted mean squared error of the next patch, a value; the end has none."""
        weight = batch.weight[:, :-1]
        return (self.patch_losses(model, batch) * weight).sum() / weight.sum()

    def patch_losses(self, model: nn.Module, batch: Batch) -> Float32[Tensor, "B L_minus_1"]:
        """Squared error of every target but the end, mean over its values; computed in fp32."""
        patches_BSP = self._patches(batch)
        found_BLP = model(batch.ids[:, :-1], patches=_shifted(patches_BSP, batch))[:, :-1]
        wanted_BLP = targets(patches_BSP[:, : found_BLP.shape[1]], self.normalisation)
        return (found_BLP.float() - wanted_BLP).square().mean(-1)

    def _patches(self, batch: Batch) -> Float32[Tensor, "B S P"]:
        assert batch.frames is not None, "the loader must read frames"
        return patchify(batch.frames, self.patch_px, self.normalisation).flatten(1, 3)


def _shifted(patches_BSP: Tensor, batch: Batch) -> Float32[Tensor, "B L P"]:
    """Set the patches at their places behind the start token, where nothing is read."""
    return F.pad(patches_BSP, (0, 0, 1, 0))[:, : batch.weight.shape[1]]
