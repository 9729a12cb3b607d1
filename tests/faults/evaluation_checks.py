"""What an evaluation must hold, each written so that it does not lean on the code it checks.

`test_evaluation_mutants` breaks the evaluation in one place after another; some check must see it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import mask_checks
import numpy as np
import score_checks
import torch
import view_checks
from PIL import Image
from scipy.io import savemat
from torch import Tensor, nn

from toto.data.token_set import TokenSet
from toto.jobs import evaluation, labelled_clips, labelled_splits, listed_samples
from toto.jobs import probe as probe_job
from toto.models.attention import causal_attention
from toto.probe import backbone, fit, preprocessing, transformers_encoder
from toto.probe.classifier import Answer
from toto.runtime import checkpoint
from toto.runtime.devices import Ranks
from toto.runtime.folder import RunFolder
from toto.tasks import answers, classification, views
from toto.tokenizers.base import digest_of
from toto.types import SPECIALS
from toto.video import sample, transforms
from toto.video.datasets import imagenet


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What the checks evaluate: made once, before anything is broken."""

    shards: Path
    """Split `many` has 40 clips of 3 frames and 200 classes: clip n has label 5 n."""
    run: Path
    """A pre-training run with fresh weights."""
    encoder: Path
    """A ViT with dropout, as transformers saves it."""


CLIPS, CLASSES, FRAMES = 40, 200, 3


def truth(clip: int) -> int:
    """Label of a clip of `Made.shards`."""
    return 5 * clip


def labels_are_those_of_their_clips(made: Made, out: Path) -> None:
    """An oracle that knows every clip by its name is right about all of them."""
    many = _many(made)
    listed = listed_samples.ListedSamples.of(many)
    assert len(listed.read) == CLIPS
    knows = {name: truth(int(name.rpartition("#")[2])) for name in listed.read}
    ranked = torch.tensor([[knows[name]] for name in listed.read])
    found = listed.classified(many.labels[0], [ranked], classes=CLASSES)
    # Two more are in the manifest: one is not there, one cannot be read.
    assert found.samples.missing == ("made/gone.mp4",)
    assert found.samples.undecodable == ("made/broken.mp4",)
    assert answers.compute("top1", found) == (CLIPS / (CLIPS + 2),)


def _many(made: Made) -> labelled_splits.LabelledSplit:
    """The clips as a test split; the others hold them too."""
    tokens = TokenSet(made.shards / "made" / "many")
    sets = dict.fromkeys(labelled_splits.SPLITS, tokens)
    return labelled_splits.labelled_splits(sets, {"kind": CLASSES}, share=0.1)["test"]


def classes_have_their_names(made: Made, out: Path) -> None:
    """The development kit's numbers are not the places of the sorted ids."""
    kind = np.dtype([("ILSVRC2012_ID", object), ("WNID", object)])
    rows = [(1, "n02119789"), (2, "n01440764"), (3, "n00001740")]
    (out / "data").mkdir()
    savemat(out / "data" / "meta.mat", {"synsets": np.array(rows, dtype=kind)})
    (out / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n3\n")
    found = imagenet._kit_labels(out)
    assert list(found.values()) == ["n01440764", "n02119789", "n00001740"]


def frames_are_those_of_the_protocol(made: Made, out: Path) -> None:
    """Every 4th frame is s, s + 4, s + 8, and a clip is read from the frame that is asked for."""
    assert sample.strided_indices(100, 16, 4, 3).tolist() == list(range(3, 67, 4))
    np.testing.assert_allclose(sample.clip_times(10.0, 5, 2.5), [4.2, 4.6, 5.0, 5.4, 5.8])
    tokens = TokenSet(made.shards / "made" / "many", frames=True)
    for clip in (0, 7, CLIPS - 1):
        assert tokens.window(clip, 1, 2)[:, 0, 0].tolist() == [(clip + 1) % 16, (clip + 2) % 16]
        assert tokens.pixels(clip, 1, 2)[:, 0, 0, 0].tolist() == [clip + 1, clip + 2]


def squares_are_cut_and_resized_as_said(made: Made, out: Path) -> None:
    """A fine board becomes grey, nothing is squeezed, the middle is the middle, red stays red."""
    board = ((np.arange(96)[:, None] + np.arange(96)) % 2 * 255).astype(np.uint8)
    grey = transforms.resize_crop(np.repeat(board[..., None], 3, 2), 24).astype(int)
    assert abs(grey - 127.5).max() < 8
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = (200, 100, 0)
    middle = transforms.resize_crop(wide, 40)
    assert (middle == (200, 100, 0)).all()
    assert (transforms.resize_crop(wide, 40, 0.0)[:, :20] == 0).all()


def pictures_reach_an_encoder_as_it_was_trained(made: Made, out: Path) -> None:
    """Against the same steps written with Pillow and numpy."""
    frame = torch.randint(256, (50, 71, 3), dtype=torch.uint8)
    found = preprocessing.Preprocessing.read(made.encoder)(frame[None])[0].double().numpy()
    small = Image.fromarray(frame.numpy()).resize((51, 36), Image.Resampling.BICUBIC)
    cut = np.asarray(small, np.float64)[2:34, 9:41] / 255
    expected = (cut - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)


def features_are_those_of_the_layer_and_place(made: Made, out: Path) -> None:
    """Layer 0 is the embedding of the code at each place; a block's comes from those before it."""
    opened = backbone.open_backbone(made.run)
    model = opened.model
    ids = torch.randint(16, (2, 4, 4, 4))
    found = opened.token_features(ids, range(opened.depth + 1))
    assert torch.equal(found[0], model.embedding(ids.flatten(1)))
    start = torch.full((2, 1), model.config.vocab_size - SPECIALS)
    stream = model.embedding(torch.cat([start, ids.flatten(1)], 1))
    stream, *beside = model._placed(stream, range(stream.shape[1]))
    for layer, block in enumerate(model.blocks, start=1):
        stream = block(stream, *beside, None)
        torch.testing.assert_close(found[layer], stream[:, 1:], rtol=1e-5, atol=1e-5)
    other = ids.clone()
    other[:, 2, 1, 3] = (other[:, 2, 1, 3] + 1) % 16
    place = 2 * 16 + 1 * 4 + 3
    for layer, after in opened.token_features(other, range(opened.depth + 1)).items():
        changed = (after != found[layer]).any(-1).any(0).nonzero().flatten()
        assert changed[0] == place
        assert layer or len(changed) == 1
    assert all(block.attention.attend is causal_attention for block in model.blocks)


def weights_are_those_of_the_checkpoint(made: Made, out: Path) -> None:
    """What is probed has the sha256 that was saved, and an untrained twin has another."""
    opened = backbone.open_backbone(made.run)
    newest = checkpoint.latest(RunFolder.open(made.run).checkpoints)
    assert newest is not None
    saved = checkpoint.load(newest.path, config_digest=None)["model"]
    digests = [
        digest_of("", weights)
        for weights in (saved, opened.model.state_dict(), opened.untrained(0).model.state_dict())
    ]
    assert digests[0] == digests[1] != digests[2]


def an_answer_does_not_depend_on_chance_or_company(made: Made, out: Path) -> None:
    """The same clip gives the same features twice, alone and beside others; trained ones differ."""
    encoder = transformers_encoder.open_encoder(made.encoder)
    clips = torch.randint(256, (3, 2, 32, 32, 3), dtype=torch.uint8)
    once, again = (encoder.token_features(clips, [3])[3] for _ in range(2))
    assert torch.equal(once, again)
    alone = encoder.token_features(clips[:1], [3])[3]
    torch.testing.assert_close(alone, once[:1], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        given = encoder.model(
            encoder.preprocessing(clips.flatten(0, 1)),
            interpolate_pos_encoding=True,
            output_hidden_states=True,
        )
    expected = given.hidden_states[3][:, 1:].reshape(once.shape)
    torch.testing.assert_close(once, expected, rtol=1e-5, atol=1e-5)
    assert encoder.digest() != encoder.untrained(0).digest()


class _Told(nn.Module):
    """Says the label that a batch carries at its last frame, unless its dropout is on."""

    layers = (1,)

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)

    def forward(self, ids: Tensor) -> Tensor:
        return self.dropout(nn.functional.one_hot(ids[:, 0], CLASSES).float())[None]


class _Clips:
    """Labelled clips of which the evaluation must ask for each once."""

    classes = CLASSES

    def __init__(self) -> None:
        self.labels = torch.tensor([truth(clip) for clip in range(CLIPS)]) % CLASSES
        self.asked: list[int] = []

    def __len__(self) -> int:
        return CLIPS

    def viewed(self, clips: Any, views: Any, *, clip: int, crop: int) -> Any:
        self.asked += list(clips)
        return SimpleNamespace(ids=self.labels[list(clips)][:, None], numbers=list(clips))


def every_clip_counts_once_over_any_ranks(made: Made, out: Path) -> None:
    """1, 2 and 3 ranks give the same classes for a number of clips that they do not divide."""

    def answer(model: nn.Module, batch: Any) -> Answer:
        # The mean of a batch, as a loss comes; batches differ in length.
        return Answer(model(batch.ids), torch.tensor(float(np.mean(batch.numbers))))

    for world in (1, 2, 3):
        total, losses, read = torch.zeros(1, CLIPS, 5, dtype=torch.int64), 0.0, []
        for rank in range(world):
            clips, part = _Clips(), []
            shares = Ranks(rank=rank, world=world)
            model = _Told().train()
            own = patch.object(
                Ranks, "summed", lambda _, values, part=part: part.append(values) or values
            )
            with own, torch.random.fork_rng():
                found = evaluation.evaluate(
                    model, answer, clips, ranks=shares, place=torch.device("cpu")
                )
            total += part[0]
            losses += float(part[1].sum())
            groups = math.ceil(CLIPS / evaluation.TOGETHER)
            read += clips.asked[: sum(map(len, _groups(rank, world, groups)))]
            if world == 1:
                assert found.accuracies == (1.0,)
        assert torch.equal(total[0, :, 0], clips.labels)
        assert losses == sum(range(CLIPS))
        assert sorted(read) == list(range(CLIPS))


def _groups(rank: int, world: int, groups: int) -> list[range]:
    size = evaluation.TOGETHER
    return [
        range(number * size, min((number + 1) * size, CLIPS))
        for number in range(rank, groups, world)
    ]


def the_middle_of_a_clip_is_evaluated(made: Made, out: Path) -> None:
    """Clips of 3 frames of which 1 is read give the middle one, in the order that was asked."""
    layout = backbone.Layout(backbone.LayoutConfig(frames=1), codes=16, frame_tokens=16)
    clips = labelled_clips.LabelledClips(_many(made), layout)
    batch = clips.viewed([3, 1])
    assert batch.ids[:, 1].tolist() == [4, 2]
    assert batch.targets.argmax(-1).tolist() == [truth(3), truth(1)]


def _features(kinds: Tensor, labels: Tensor) -> fit.Features:
    tokens = kinds.unsqueeze(2).repeat(1, 1, 2, 1)
    return fit.Features(tokens=tokens.bfloat16(), averages=kinds, labels=labels[None])


def the_selection_split_chooses(made: Made, out: Path) -> None:
    """Layer 1 knows the selection split, layer 2 the test split: layer 1 must be taken."""
    draw = torch.Generator().manual_seed(0)
    splits = []
    for known in ((1, 2), (1,), (2,)):
        labels = torch.randint(3, (60,), generator=draw)
        kinds = torch.randn(3, 60, 8, generator=draw)
        for layer in known:
            kinds[layer] += 6 * nn.functional.one_hot(labels, 8)
        splits.append(_features(kinds, labels))
    task = classification.Task(name="class", classes=3)
    config = fit.FitConfig(epochs=4, batch=30, lr=3e-2, heads=2)
    found = classification.probe_once(*splits, [task], config, seed=0)
    assert found.choices[0].layer == 1
    assert found.choices[0].selection > 0.9
    right = (found.predicted[0] == splits[2].labels[0]).float().mean()
    assert abs(found.scores[0] - float(right)) < 1e-6 < 0.6 - found.scores[0]


def the_likeliest_class_is_the_answer(made: Made, out: Path) -> None:
    """As many clips as classes, so that no axis gives itself away by its length."""
    scores = torch.randn(2, 1, 1, 6, 6)

    class Probes:
        def __call__(self, tokens: Tensor, averages: Tensor) -> Tensor:
            return scores

    shown = _features(torch.zeros(1, 6, 4), torch.zeros(6, dtype=torch.int64))
    found = fit.predict(Probes(), shown)
    assert found[1, 0, 0].tolist() == [int(np.argmax(row)) for row in scores[1, 0, 0].numpy()]


def features_are_of_the_model_that_is_scored(made: Made, out: Path) -> None:
    """Each untrained twin's features are extracted anew, the trained model's once."""
    made_of: list[int] = []
    job = SimpleNamespace(seeds=(0, 1, 2), tasks=(), fit=None)
    job._features = lambda source, shard, progress: source.seed
    used: list[int] = []
    before = probe_job.probe_once
    probe_job.probe_once = lambda train, *_, **__: used.append(train)

    def twin(seed: int) -> Any:
        made_of.append(seed)
        return SimpleNamespace(seed=seed, digest=lambda: str(seed))

    try:
        shards: dict[str, Any] = dict.fromkeys(probe_job.SPLITS)
        bar = SimpleNamespace(advance=lambda *_, **__: None)
        probe_job.Probe._probe(job, twin, shards, bar, same=False)
        assert (made_of, used) == ([0, 1, 2], [0, 1, 2])
        probe_job.Probe._probe(job, twin, shards, bar, same=True)
        assert (made_of[3:], used[3:]) == ([0], [0, 0, 0])
    finally:
        probe_job.probe_once = before


def views_are_averaged_as_probabilities(made: Made, out: Path) -> None:
    """One sure view does not outvote two, and views stand where SlowFast's do."""
    scores = torch.tensor([[[2.0, 0.0]], [[2.0, 0.0]], [[0.0, 9.0]]])
    assert views.average_views(scores).argmax(-1).tolist() == [0]
    starts = [int(views.view_indices(300, 16, 4, clip=c, clips=10)[0]) for c in range(10)]
    assert starts == [int((300 - 64) * c / 10) for c in range(10)]
    assert views.view_indices(300, 16, 4, clip=9, clips=10)[-1] == 212 + 60
    assert views.crop_shares(3) == (0.0, 0.5, 1.0)


CHECKS: dict[str, Callable[[Made, Path], None]] = {
    check.__name__: check
    for check in (
        labels_are_those_of_their_clips,
        classes_have_their_names,
        frames_are_those_of_the_protocol,
        squares_are_cut_and_resized_as_said,
        pictures_reach_an_encoder_as_it_was_trained,
        features_are_those_of_the_layer_and_place,
        weights_are_those_of_the_checkpoint,
        an_answer_does_not_depend_on_chance_or_company,
        every_clip_counts_once_over_any_ranks,
        the_middle_of_a_clip_is_evaluated,
        the_selection_split_chooses,
        the_likeliest_class_is_the_answer,
        features_are_of_the_model_that_is_scored,
        views_are_averaged_as_probabilities,
        view_checks.every_view_of_a_clip_is_another,
        view_checks.classes_are_those_of_the_training_words,
        view_checks.squares_of_a_clip_stay_together,
        score_checks.lost_samples_count_as_wrong,
        score_checks.top_k_is_among_the_first_k,
        score_checks.the_ledger_sees_what_was_changed,
        score_checks.kept_features_are_of_the_model_that_is_asked_for,
        score_checks.splits_share_their_classes,
        score_checks.the_atlas_chooses_by_the_selection_split,
        mask_checks.masks_score_as_davis_scores_them,
        mask_checks.masks_become_cells_and_back,
        mask_checks.labels_follow_the_likest_cells,
    )
}
