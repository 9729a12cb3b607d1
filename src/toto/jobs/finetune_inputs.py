"""What a fine-tuning begins with: labelled shards, and the run's model as they need it."""

from dataclasses import replace

from toto.data.layout import Layout
from toto.data.token_set import TokenSet
from toto.jobs.finetune import Finetune
from toto.jobs.labelled_splits import LabelledSplit, labelled_splits
from toto.jobs.probe import require_tokens_of
from toto.jobs.sequences import fit_layout, grid_of, open_tokens
from toto.models import DecoderConfig, LlamaConfig
from toto.probe.backbone import Backbone


def open_splits(job: Finetune, backbone: Backbone) -> dict[str, TokenSet]:
    """Open the splits, the frames too where pixels are read or changed.

    Raises:
        ValueError: if one is missing, is of another tokenizer, or keeps no frames.
    """
    changed = job.augmentation.changes or job.mixing.changes
    train = open_tokens(job.shards, job.splits.train, frames=False)
    if changed and not train.keeps_frames:
        raise ValueError(
            f"{train.path} keeps no frames, and augmentation and mixing change pixels; tokenise "
            "again with --keep-frames, or switch them off"
        )
    patches = backbone.reads_patches
    shards = job.splits.open(
        job.shards, frames=lambda split: patches or (changed and split == "train")
    )
    require_tokens_of(backbone, shards)
    return shards


def label_clips(job: Finetune, shards: dict[str, TokenSet]) -> dict[str, LabelledSplit]:
    """Give the clips of each split their classes.

    Raises:
        ValueError: if a clip has none, it is not one of the task, or the test clips were not cut
            to the squares that are to be viewed.
    """
    samples = labelled_splits(
        shards, {job.task.name: job.task.classes}, share=job.splits.selection_share
    )
    samples["test"].require_views(job.views)
    return samples


def require_direction(job: Finetune, backbone: Backbone) -> None:
    """Refuse to read a frozen backbone in another direction than it learnt.

    Raises:
        ValueError: if that is asked for.
    """
    if job.protocol == "frozen" and job.attention != backbone.attention:
        raise ValueError(
            f"attention {job.attention!r}: {job.run_folder} learnt {backbone.attention} attention, "
            f"and protocol 'frozen' leaves it as it is; --attention {backbone.attention}"
        )


def longer(config: DecoderConfig, job: Finetune) -> DecoderConfig:
    """Give the model the context and the rotary base that were asked for.

    Raises:
        ValueError: if it has no rotary positions.
    """
    if job.context:
        config = replace(config, context=job.context)
    if job.rope_base:
        if not isinstance(config, LlamaConfig):
            raise ValueError(
                f"rope_base {job.rope_base}: the run's model has no rotary positions; leave it 0"
            )
        config = replace(config, rope_base=job.rope_base)
    return config


def fit_clips(
    job: Finetune, config: DecoderConfig, backbone: Backbone, shards: dict[str, TokenSet]
) -> Layout:
    """Fit the sequence format to clips and model.

    Raises:
        ValueError: if the clips differ in length and no number of frames was given, or a sequence
            does not fit the context.
    """
    lengths = sorted({int(length) for tokens in shards.values() for length in tokens.lengths})
    if not job.frames and len(lengths) > 1:
        raise ValueError(
            f"{job.shards} has clips of {lengths[0]} to {lengths[-1]} frames; "
            f"--frames {lengths[0]} reads as many of each"
        )
    layout_config = replace(backbone.layout.config, frames=job.frames or lengths[0])
    description = shards["train"].description
    rows, columns = grid_of(config, description)
    layout = Layout(layout_config, codes=1, frame_tokens=rows * columns)
    if config.context < layout.length:
        raise ValueError(
            f"a sequence has {layout.length} tokens, the run's context {config.context}; "
            f"--context {layout.length}, or fewer --frames"
        )
    return fit_layout(layout_config, config, description)
