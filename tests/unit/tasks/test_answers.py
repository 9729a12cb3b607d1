from dataclasses import replace

import pytest

from made_scores import IDS, LABELS, RANKED, classified
from toto.tasks.answers import Classified, Measured, Samples, compute, gather, ids_sha256


def without(*names: str) -> dict[str, tuple[int, ...]]:
    return {name: ranks for name, ranks in RANKED.items() if name not in names}


def test_the_share_of_all_samples_is_scored() -> None:
    wrong = {**RANKED, IDS[2]: (0, 2), IDS[3]: (2, 1)}
    answers = classified([RANKED, wrong])
    assert answers.top(1) == (1.0, 5 / 7)
    assert answers.top(2) == (1.0, 6 / 7)
    assert compute("top1", answers) == answers.top(1)


def test_a_lost_sample_counts_as_wrong() -> None:
    answers = classified([without(IDS[4], IDS[6])], undecodable=[IDS[6]])
    assert answers.top(1) == (5 / 7,)
    assert answers.samples.missing == (IDS[4],)
    assert answers.samples.undecodable == (IDS[6],)
    assert answers.samples.evaluated == tuple(n for n in IDS if n not in (IDS[4], IDS[6]))


def test_a_lost_sample_may_lack_its_label() -> None:
    labels = {name: label for name, label in LABELS.items() if name != IDS[4]}
    answers = Classified.gathered(IDS, labels, [without(IDS[4]).items()], classes=3)
    assert answers.labels[4] == -1
    assert answers.top(1) == (6 / 7,)


def test_the_order_of_the_answers_does_not_matter() -> None:
    backwards = dict(reversed(RANKED.items()))
    assert classified([backwards]) == classified([RANKED])


def test_a_sample_that_is_answered_twice_counts_once() -> None:
    padded = [*RANKED.items(), *list(RANKED.items())[:2]]
    answers = Classified.gathered(IDS, LABELS, [padded], classes=3)
    assert answers.top(1) == (1.0,)
    assert answers.samples.duplicated == IDS[:2]


def test_refuses_a_sample_in_the_place_of_another() -> None:
    with pytest.raises(ValueError, match=r"'set/99.mp4' was answered and is not of the split"):
        gather(IDS, [("set/99.mp4", (0,))])


def test_refuses_two_answers_for_one_sample() -> None:
    with pytest.raises(ValueError, match=r"'set/0.mp4' was answered twice, and differently"):
        gather(IDS, [(IDS[0], (0,)), (IDS[0], (1,))])


def test_refuses_an_answer_for_what_could_not_be_read() -> None:
    with pytest.raises(ValueError, match=r"'set/0.mp4' is undecodable and has an answer"):
        gather(IDS, [(IDS[0], (0,))], undecodable=[IDS[0]])


def test_refuses_a_list_with_a_sample_twice() -> None:
    with pytest.raises(ValueError, match=r"lists sample 'set/0.mp4' twice"):
        gather([*IDS, IDS[0]], RANKED.items())


def test_refuses_seeds_that_answered_other_samples() -> None:
    with pytest.raises(ValueError, match="seeds 0 and 1 answered other samples"):
        classified([RANKED, without(IDS[1])])


def test_refuses_samples_that_were_not_asked_for() -> None:
    with pytest.raises(ValueError, match="sample 'x' was not asked for"):
        Samples(ids=IDS, missing=("x",))


@pytest.mark.parametrize("label", [-1, 3])
def test_refuses_a_label_without_a_class(label: int) -> None:
    with pytest.raises(ValueError, match=rf"'set/0.mp4' has label {label} of 3 classes"):
        Classified.gathered(IDS, {**LABELS, IDS[0]: label}, [RANKED.items()], classes=3)


@pytest.mark.parametrize("ranks", [(), (0, 0), (3,), (-1,)])
def test_refuses_an_answer_that_is_no_ranking(ranks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"'set/0.mp4' has answer .*; distinct classes below 3"):
        classified([{**RANKED, IDS[0]: ranks}])


def test_refuses_counts_that_differ() -> None:
    with pytest.raises(ValueError, match="7 samples, 6 labels"):
        replace(classified(), labels=(0,) * 6)
    with pytest.raises(ValueError, match=r"7 samples, 7 labels and \[6\] answers"):
        replace(classified(), ranked=(tuple(RANKED.values())[:6],))


def test_refuses_top5_of_fewer_classes() -> None:
    with pytest.raises(ValueError, match=r"top5 needs 3 classes of 'set/0.mp4', 2 were kept"):
        compute("top5", classified())
    whole = {name: (label, (label + 1) % 3, (label + 2) % 3) for name, label in LABELS.items()}
    assert compute("top5", classified([whole])) == (1.0,)


def test_numbers_are_averaged_over_all_samples() -> None:
    answers = Measured.gathered(["a/1", "a/2", "b/1"], [[("b/1", 0.3), ("a/1", 0.6)]])
    assert answers.samples.missing == ("a/2",)
    assert compute("j", answers) == (0.9 / 3,)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_refuses_a_number_outside_of_0_to_1(value: float) -> None:
    with pytest.raises(ValueError, match=r"sample 'a/1' has value .*; it must lie in"):
        Measured.gathered(["a/1"], [[("a/1", value)]])


def test_refuses_a_metric_of_other_answers() -> None:
    with pytest.raises(ValueError, match="metric 'j' needs Measured answers, got Classified"):
        compute("j", classified())
    with pytest.raises(ValueError, match="no metric 'top2'; there are: top1, top5, j, f, j_and_f"):
        compute("top2", classified())


def test_the_hash_is_of_the_set_of_ids() -> None:
    assert ids_sha256(IDS) == ids_sha256(reversed(IDS))
    assert len({ids_sha256(IDS), ids_sha256(IDS[1:]), ids_sha256(["a\nb"]), ids_sha256("ab")}) == 4
