"""The page: its parts, and which answer each of them gets (`toto.app.answers`)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toto.app import panels
from toto.app.answers import MEAN, Answers, PageConfig
from toto.app.run import open_run
from toto.app.samples import find_samples
from toto.app.words import HEADING, SECTIONS, WAITING
from toto.report.elements import Html, element, join

if TYPE_CHECKING:
    from gradio import Blocks

_HERE = Path(__file__).parent


def build_page(run_folder: Path, config: PageConfig = PageConfig()) -> "Blocks":  # noqa: B008
    """Open a run and lay out its page.

    Raises:
        ValueError: if gradio is not installed, the folder is no pre-training run with a checkpoint,
            or there is no clip to offer.
    """
    try:
        import gradio
    except ModuleNotFoundError:
        raise ValueError("the page needs gradio: pip install 'toto-video[app]'") from None
    run = open_run(run_folder)
    data = config.data or _data_beside(run_folder)
    samples = find_samples(data, frames=run.frames, side_px=run.side_px, count=config.samples)
    answers = Answers(run=run, samples=samples, config=config)
    with gradio.Blocks(title="toto: what a video model sees", analytics_enabled=False) as page:
        _Layout(gradio, answers).lay_out()
    return page


class _Layout:
    """Lays the parts of a page out, from top to bottom, and ties them to their answers."""

    def __init__(self, gradio: Any, answers: Answers) -> None:
        self.gradio, self.answers = gradio, answers
        self.run, self.config = answers.run, answers.config
        self.script = (_HERE / "page.js").read_text(encoding="utf-8")
        self.sections = 0
        # One model, one computation at a time; those for whom it takes too long may press again.
        self.queued: dict[str, Any] = {
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "api_visibility": "private",
        }
        self.at_once = {**self.queued, "trigger_mode": "always_last", "show_progress": "minimal"}
        self.watched = gradio.State(None, time_to_live=self.config.forget_after_s)
        self.chosen: list[Any] = []

    def lay_out(self) -> None:
        """Place all parts that the run has something to show in."""
        style = Html(f"<style>{(_HERE / 'page.css').read_text(encoding='utf-8')}</style>")
        self.part("heading", join((style, HEADING, panels.facts(self.run))))
        self.clips()
        self.layers()
        if self.run.attends:
            self.looking()
        if self.run.frames > 1:
            self.following()
        if self.run.forecasts:
            self.imagining()
        self.section("curves")
        self.part("curves", panels.curves(self.run))

    def clips(self) -> None:
        """The clips to choose from, and what the model reads of the one that is chosen."""
        samples = self.part("samples", panels.sample_buttons(self.answers.samples), script=True)
        upload = self.gradio.UploadButton(
            "or send a clip or a picture of your own",
            file_types=["video", "image"],
            elem_id="upload",
        )
        self.section("reading")
        outcome = [self.watched, self.part("reading", WAITING)]
        press, send = self.pressed(self.answers.sample), self.said(self.answers.upload)
        self.chosen = [
            samples.select(press, None, outcome, **self.queued),
            upload.upload(send, upload, outcome, **self.queued),
        ]

    def layers(self) -> None:
        """The features of every layer."""
        shown = self.gradio.State(self.run.layer)
        self.section("layers")
        part = self.part("layers", WAITING, script=True)
        answers = self.answers
        part.select(self.pressed(answers.layer), self.watched, [shown, part], **self.at_once)
        self.then(self.said(answers.layers), [self.watched, shown], [self.watched, part])

    def looking(self) -> None:
        """The attention of a patch."""
        place, depth = self.gradio.State(None), self.run.backbone.depth
        first_block: Any = self.run.backbone.model.blocks[0]
        self.section("looking")
        with self.gradio.Row():
            layer = self.slider("layer", 1, depth, max(1, self.run.layer))
            heads = [MEAN, *map(str, range(1, first_block.attention.heads + 1))]
            head = self.gradio.Dropdown(heads, value=MEAN, label="head", filterable=False)
        part = self.part("looking", WAITING, script=True)
        asked, outcome = [self.watched, layer, head], [self.watched, place, part]
        part.select(self.pressed(self.answers.patch), asked, outcome, **self.at_once)
        for changed in (layer.change, head.change):
            changed(self.said(self.answers.gaze), [*asked, place], outcome, **self.at_once)
        self.then(self.said(self.answers.gaze), [*asked, place], outcome)

    def following(self) -> None:
        """A mask, drawn and followed."""
        mask = self.gradio.State(None, time_to_live=self.config.forget_after_s)
        depth = self.run.backbone.depth
        self.section("following")
        with self.gradio.Row():
            with self.gradio.Column(min_width=280):
                paper = self.part("paper", WAITING, script=True)
                layer = self.slider("by the features of layer", 0, depth, self.run.layer)
            with self.gradio.Column(min_width=280, scale=2):
                part = self.part("following")
        answers, asked = self.answers, [self.watched, layer]
        paper.select(self.pressed(answers.mask), asked, [mask, part], **self.at_once)
        layer.change(self.said(answers.follow), [*asked, mask], part, **self.at_once)
        self.then(self.said(answers.paper), asked, [mask, paper, part])

    def imagining(self) -> None:
        """Several futures of the clip."""
        frames, most = self.run.frames, self.config
        half = max(1, frames // 2)
        self.section("imagining")
        with self.gradio.Row():
            seen = self.slider("frames shown to it", 1, frames, half)
            new = self.slider(
                "frames to imagine", 1, most.most_frames, min(frames - half, most.most_frames)
            )
            futures = self.slider("futures", 1, most.most_futures, min(3, most.most_futures))
        with self.gradio.Row():
            temperature = self.slider("temperature (0: the likeliest token)", 0, 1.5, 0.8, 0.05)
            top_k = self.slider("top-k (0: any token)", 0, 500, 50)
            seed = self.slider("seed", 0, 999, 0)
        again = self.gradio.Button("imagine again", variant="primary", elem_id="again")
        part = self.part("imagining", WAITING)
        asked = [self.watched, seen, new, futures, temperature, top_k, seed]
        answer = self.counted(self.answers.imagine)
        again.click(answer, asked, part, **self.queued)
        self.then(answer, asked, part)

    def part(self, name: str, value: str = "", *, script: bool = False) -> Any:
        """Place a piece of the page of our own making."""
        return self.gradio.HTML(
            value,
            js_on_load=self.script if script else None,
            apply_default_css=False,
            elem_classes=["toto"],
            elem_id=name,
        )

    def section(self, name: str) -> None:
        """Place a heading, and say what is below it."""
        self.sections += 1
        title, words = SECTIONS[name]
        number = element("span", str(self.sections), class_="number")
        self.part(
            f"about-{name}", element("section", element("h2", number, title), element("p", words))
        )

    def slider(self, label: str, least: float, most: float, value: float, step: float = 1) -> Any:
        """Place a slider; where there is nothing to choose it stays where it is."""
        return self.gradio.Slider(
            least,
            most,
            value=value,
            step=step,
            label=label,
            min_width=220,
            interactive=least < most,
        )

    def then(self, reply: Callable[..., Any], asked: Any, outcome: Any) -> None:
        """Give this reply too to whoever has chosen a clip, after those before."""
        self.chosen = [one.success(reply, asked, outcome, **self.queued) for one in self.chosen]

    def said(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        """Let an answer's complaint be shown as the line that it is."""

        def reply(*values: Any) -> Any:
            with self.one_line():
                return answer(*values)

        return reply

    def pressed(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        """Give an answer what the browser says of a press, before what the page holds."""

        def reply(event: Any, *values: Any) -> Any:
            with self.one_line():
                return answer(event._data, *values)

        # By its annotation gradio knows that it is to be given.
        reply.__annotations__["event"] = self.gradio.EventData
        return reply

    def counted(self, answer: Callable[..., Iterator[Any]]) -> Callable[..., Any]:
        """Show how far an answer has come, from the numbers that it gives on the way."""
        bar: Any = self.gradio.Progress()

        def reply(
            watched: Any, seen: Any, new: Any, futures: Any, temperature: Any, top_k: Any,
            seed: Any, progress: Any = bar,
        ) -> Any:  # fmt: skip
            outcome = None
            with self.one_line():
                for outcome in answer(watched, seen, new, futures, temperature, top_k, seed):
                    if isinstance(outcome, int):
                        progress((outcome, new), desc="imagining", unit="frames")
                        # Only here can gradio end it when the visitor has left.
                        yield self.gradio.skip()
            yield outcome

        return reply

    @contextmanager
    def one_line(self) -> Iterator[None]:
        """Show what is wrong in a line, without a path and without a trace."""
        try:
            yield
        except ValueError as error:
            raise self.gradio.Error(str(error), print_exception=False) from None


def _data_beside(run_folder: Path) -> Path | None:
    """The data folder of the demo that a run is part of, if it is."""
    for folder in (run_folder / "data", run_folder.resolve().parent / "data"):
        if (folder / "results" / "ingest.json").is_file():
            return folder
    return None
