"""Bugs that evaluations have had, each as a change of one place of ours."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """One bug.

    Attributes:
        where: module and function, or class and method.
        old: the text, found once in the function's.
        new: what takes its place.
    """

    where: str
    old: str
    new: str


def mutant(where: str, old: str, new: str) -> Mutant:
    return Mutant(where=where, old=old, new=new)


MUTANTS: dict[str, Mutant] = {
    # Labels and lists.
    "labels in another order": mutant(
        "toto.data.token_set:TokenSet.labels",
        "for shard in range(self.shards)])",
        "for shard in range(self.shards)]).flip(0)",
    ),
    "labels overflow a byte": mutant(
        "toto.data.records:Clips.labels",
        "found.to_numpy().copy()",
        "found.to_numpy().astype('int8').astype('int64')",
    ),
    "classes sorted otherwise": mutant(
        "toto.video.datasets.imagenet:_kit_labels",
        'int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets',
        "n: w for n, w in enumerate(sorted(str(row['WNID']) for row in synsets), 1)",
    ),
    "undecodable clips forgotten": mutant(
        "toto.jobs.listed_samples:lost_rows", 'row.status != "ok"', 'row.status == "missing"'
    ),
    "missing clips forgotten": mutant(
        "toto.jobs.listed_samples:lost_rows", 'row.status != "ok"', 'row.status == "refused"'
    ),
    "answers joined to other clips": mutant(
        "toto.jobs.listed_samples:ListedSamples.classified",
        "zip(self.read, one.tolist(), strict=True)",
        "zip(sorted(self.read), one.tolist(), strict=True)",
    ),
    # Frames and pictures.
    "a stride that ends on the clip's last frame": mutant(
        "toto.video.sample:strided_indices",
        "start + stride * np.arange(frames, dtype=np.int64)",
        "np.linspace(start, start + frames * stride - 1, frames).astype(np.int64)",
    ),
    "frame rates slip": mutant(
        "toto.video.sample:clip_times",
        "np.arange(frames) / fps",
        "np.arange(frames) / np.ceil(fps)",
    ),
    "frames off by one": mutant(
        "toto.data.token_set:TokenSet._span", "- before) + start", "- before) + start - 1"
    ),
    "clips begin at their start": mutant(
        "toto.jobs.labelled_clips:LabelledClips.viewed", "int(places[0])", "0"
    ),
    "video resized without antialias": mutant(
        "toto.video.transforms:_scaled",
        "{width_px}:{height_px}:{_SCALE}",
        "{width_px}:{height_px}:flags=neighbor",
    ),
    "crops off the centre": mutant(
        "toto.video.transforms:_filter",
        "int(x * (frame.width - shortest))",
        "int(0.75 * x * (frame.width - shortest))",
    ),
    "frames squeezed, not cut": mutant(
        "toto.video.transforms:_filter",
        '"crop", f"{shortest}:{shortest}:{left}:{top}:exact=1"',
        '"null"',
    ),
    "BGR": mutant(
        "toto.video.transforms:Squares.cut",
        "graph.vpull().to_ndarray()",
        "graph.vpull().to_ndarray()[..., ::-1]",
    ),
    "an encoder's pictures in BGR": mutant(
        "toto.probe.preprocessing:Preprocessing.normalised",
        "frames.float()",
        "frames.float().flip(-1)",
    ),
    "no normalisation": mutant(
        "toto.probe.preprocessing:Preprocessing.normalised",
        "(scaled - mean.to(scaled)) / deviation.to(scaled)",
        "scaled",
    ),
    "normalisation before scaling": mutant(
        "toto.probe.preprocessing:Preprocessing.normalised",
        "frames.float() * self.scale",
        "frames.float()",
    ),
    "an encoder's pictures resized without antialias": mutant(
        "toto.probe.preprocessing:Preprocessing._resized",
        "Image.Resampling(self.resample)",
        "Image.Resampling.NEAREST",
    ),
    "an encoder's pictures not cropped": mutant(
        "toto.probe.preprocessing:Preprocessing._cut",
        "(height - rows) // 2, (width - columns) // 2",
        "0, 0",
    ),
    # Models and features.
    "another layer": mutant("toto.models.sequence_model:SequenceModel._run", "start=1", "start=0"),
    "no causal mask": mutant(
        "toto.probe.backbone:open_backbone",
        "set_direction(model, attention)",
        'set_direction(model, "bidirectional")',
    ),
    "features off by one place": mutant(
        "toto.probe.backbone:Backbone.token_features", "value[:, 1:]", "value[:, :-1]"
    ),
    "weights never loaded": mutant(
        "toto.probe.backbone:open_backbone", "model.load_state_dict(", "dict("
    ),
    "another encoder's layer": mutant(
        "toto.probe.transformers_encoder:_streams",
        "blocks[layer - 1].register_forward_hook",
        "blocks[max(layer - 2, 0)].register_forward_hook",
    ),
    "dropout in an encoder that is measured": mutant(
        "toto.probe.transformers_encoder:_frozen", "model.eval()", "model.train()"
    ),
    "dropout in a classifier that is measured": mutant(
        "toto.jobs.evaluation:evaluate", "model.eval()", "model.train()"
    ),
    "class tokens among the patches": mutant(
        "toto.probe.transformers_encoder:TransformersEncoder._places",
        "[:, -cells:]",
        "[:, :cells]",
    ),
    "an untrained twin that is trained": mutant(
        "toto.probe.transformers_encoder:TransformersEncoder.untrained",
        "_frozen(_made(self.family, self._config)).to(place)",
        "self.model",
    ),
    "stale features": mutant(
        "toto.jobs.probe:Probe._probe", "not features or not same", "not features"
    ),
    # Ranks and counts.
    "a sampler that pads": mutant(
        "toto.jobs.evaluation:evaluate", "if mine < len(groups):", "if True:"
    ),
    "silent truncation": mutant(
        "toto.jobs.evaluation:evaluate",
        "range(0, len(clips), TOGETHER)",
        "range(0, len(clips) - TOGETHER + 1, TOGETHER)",
    ),
    "a mean of batches, not of clips": mutant(
        "toto.jobs.evaluation:evaluate", ".mean() * len(group)", ".mean() * TOGETHER"
    ),
    "the least likely class": mutant(
        "toto.jobs.evaluation:evaluate", ".topk(kept)", ".topk(kept, largest=False)"
    ),
    "top-1 of another axis": mutant("toto.probe.fit:predict", "argmax(-1)", "argmax(-2)"),
    "lost samples left out of the count": mutant(
        "toto.tasks.answers:Classified.top",
        "right / len(self.labels)",
        "right / len(self.samples.evaluated)",
    ),
    "lost objects left out of the mean": mutant(
        "toto.tasks.answers:Measured.gathered",
        "one.get(name, 0.0) for name in ids",
        "one.get(name, 1.0) for name in ids",
    ),
    "lost samples replaced": mutant(
        "toto.tasks.answers:gather", "if name not in asked:", "if False:"
    ),
    "samples answered twice, the last one counts": mutant(
        "toto.tasks.answers:gather", "if found[name] != answer:", "if False:"
    ),
    "top-5 of six": mutant("toto.tasks.answers:Classified.top", "classes[:k]", "classes[: k + 1]"),
    "top-1 by the last class": mutant(
        "toto.tasks.answers:Classified.top", "classes[:k]", "classes[-k:]"
    ),
    # Views.
    "views averaged as scores": mutant(
        "toto.tasks.views:average_views",
        "scores_VBJ.float().softmax(-1).mean(0)",
        "scores_VBJ.float().mean(0).softmax(-1)",
    ),
    "views that reach the end": mutant(
        "toto.tasks.views:view_indices", "room * clip // clips", "room * clip // (clips - 1)"
    ),
    "three times the same crop": mutant(
        "toto.tasks.views:crop_shares", "(0.0, 0.5, 1.0)", "(0.5, 0.5, 0.5)"
    ),
    "the same clip in all views": mutant(
        "toto.jobs.labelled_clips:LabelledClips.viewed", "clip=clip, clips", "clip=0, clips"
    ),
    "the same square in all views": mutant(
        "toto.jobs.labelled_clips:LabelledClips.viewed", "else squares[crop]", "else squares[0]"
    ),
    "views left out": mutant(
        "toto.jobs.evaluation:_views_of", "range(views.temporal)", "range(1, views.temporal)"
    ),
    "one view is the first square": mutant(
        "toto.jobs.labelled_splits:LabelledSplit.numbers", "[len(squares) // 2]", "[0]"
    ),
    "squares in the order of the shards": mutant(
        "toto.jobs.labelled_splits:_clips", "in sorted(squares)", "in squares"
    ),
    "every square is a sample": mutant(
        "toto.jobs.labelled_splits:labelled_splits",
        'if name == "train" else',
        'if name != "selection" else',
    ),
    "squares of a clip on both sides": mutant(
        "toto.jobs.labelled_splits:_clips",
        "found.setdefault(name, [])",
        "found.setdefault(f'{name} {crop}', [])",
    ),
    "classes in the order of the clips": mutant(
        "toto.jobs.labelled_splits:_classes",
        "tuple(sorted(set(train.words())))",
        "tuple(dict.fromkeys(train.words()))",
    ),
    "classes of another number": mutant(
        "toto.jobs.labelled_splits:_classes", "expected not in (None, len(classes))", "False"
    ),
    # Choices and records.
    "the test split chooses": mutant(
        "toto.tasks.classification:probe_once",
        "predict(probes, selection), selection.labels",
        "predict(probes, test), test.labels",
    ),
    "the best of all on the test split": mutant(
        "toto.tasks.classification:probe_once",
        "float(scored_2ZG[p, z, g])",
        "float(scored_2ZG[:, :, g].max())",
    ),
    "a choice on the reported split is taken": mutant(
        "toto.tasks.ledger:Score.__post_init__",
        "chose.digest == reported.digest or chose.ids_sha256 == reported.ids_sha256",
        "False",
    ),
    "a choice on reported samples is taken": mutant(
        "toto.tasks.ledger:require_apart", "if shared:", "if False:"
    ),
    "the best seed": mutant(
        "toto.tasks.ledger:Score.value",
        "math.fsum(self.values) / len(self.values)",
        "max(self.values)",
    ),
    "a ledger that believes": mutant(
        "toto.jobs.score_files:differences", "if again != score.values:", "if False:"
    ),
    "a ledger that does not count": mutant(
        "toto.jobs.score_files:differences", "if said != found:", "if False:"
    ),
    "a protocol without its numbers": mutant(
        "toto.tasks.ledger:Protocol.of",
        'digest({"name": name, "fields": fields})',
        'digest({"name": name})',
    ),
    "kept features of another model": mutant(
        "toto.probe.feature_cache:FeatureCache._entry",
        "digest(dict(facts))",
        'digest({**facts, "backbone": ""})',
    ),
    "kept features of other clips": mutant(
        "toto.probe.feature_cache:FeatureCache._entry",
        "digest(dict(facts))",
        'digest({"backbone": facts["backbone"]})',
    ),
    "each split with classes of its own": mutant(
        "toto.jobs.labelled_splits:_numbers",
        "enumerate(classes)",
        "enumerate(sorted(set(tokens.words())))",
    ),
    "the atlas chooses by the test split": mutant(
        "toto.studies.layers:pick", "[outcome.selection for", "[outcome.test for"
    ),
    # Masks.
    "first and last frame counted": mutant(
        "toto.metrics.segmentation:score_sequence", "slice(1, -1)", "slice(0, None)"
    ),
    "objects merged": mutant(
        "toto.metrics.segmentation:score_sequence",
        "(predicted[inner] == one, truth[inner] == one)",
        "(predicted[inner] > 0, truth[inner] > 0)",
    ),
    "two empty masks score nothing": mutant(
        "toto.metrics.segmentation:region_similarity", "either == 0, 1.0", "either == 0, 0.0"
    ),
    "a boundary ten times as wide": mutant(
        "toto.metrics.segmentation:score_sequence",
        "tolerance: float = 0.008",
        "tolerance: float = 0.08",
    ),
    "a boundary that ends before its reach": mutant(
        "toto.metrics.segmentation:_f_measure", "[predicted] <= reach_px", "[predicted] < reach_px"
    ),
    "masks resized by their corners": mutant(
        "toto.probe.propagate:mask_to_grid", '"nearest-exact"', '"nearest"'
    ),
    "masks enlarged from corner to corner": mutant(
        "toto.probe.propagate:grid_to_mask", "align_corners=False", "align_corners=True"
    ),
    "ids averaged": mutant(
        "toto.probe.propagate:grid_to_mask",
        "ids[fine_JHW.argmax(dim=0).cpu().numpy()]",
        "(fine_JHW * torch.from_numpy(ids)[:, None, None]).sum(0).round().byte().numpy()",
    ),
    "one cell fewer is kept": mutant(
        "toto.probe.propagate:_label_tile", "min(config.topk,", "min(config.topk - 1,"
    ),
    "another temperature": mutant(
        "toto.probe.propagate:_label_tile", "best_Pk / config.temperature", "best_Pk"
    ),
    "one frame fewer is seen": mutant(
        "toto.probe.propagate:Propagation.context",
        "range(frame - self.context_frames, frame)",
        "range(frame - self.context_frames + 1, frame)",
    ),
}
