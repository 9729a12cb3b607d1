"""The site builds without a warning, asks for nothing elsewhere, and says what the code says."""

import importlib.util
import math
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from toto import cli
from toto.app.serve import ServeConfig
from toto.app.uploads import UploadLimits
from toto.jobs.pretrain import Pretrain
from toto.models.flops import model_cost
from toto.recipes import PRETRAIN
from toto.video.limits import DecodeLimits

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WITHOUT_OPTIONS = {"list", "show"}
"""`list` takes none, `show` those of pretrain."""


@pytest.fixture(scope="module")
def made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("made", DOCS / "made.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["made"] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


def sections() -> dict[str, str]:
    """Text of docs/commands.md below each heading."""
    parts = re.split(r"^##+ (.+)$", (DOCS / "commands.md").read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_verb_has_its_place_and_no_other(made: ModuleType) -> None:
    assert list(sections()) == list(made.verbs())
    assert set(made.verbs()) > set(cli.VERBS) | {"data scale", "tokenizer train", "study layers"}


def test_every_verb_has_its_purpose_an_example_and_its_options(made: ModuleType) -> None:
    for verb, text in sections().items():
        assert f"<!-- made: verb {verb} -->" in text
        if f"usage: toto {verb} VERB" in made.help_of(verb):
            continue
        (first, *_) = re.findall(r"^```bash\n(.*?)```", text, flags=re.MULTILINE | re.DOTALL)
        assert first.startswith(f"toto {verb}")
        asked = f"<!-- made: options {verb} -->" in text
        assert asked == (verb not in WITHOUT_OPTIONS), verb


def test_options_are_those_of_the_help(made: ModuleType) -> None:
    for verb in made.verbs():
        if verb in WITHOUT_OPTIONS or f"usage: toto {verb} VERB" in made.help_of(verb):
            continue
        groups = made.options(verb).values()
        shown = [re.split("[ ,]", option.name)[0] for group in groups for option in group]
        assert len(shown) == len(set(shown)), verb
        named = set(re.findall(r"^[│ ]*(--[\w.-]+)", made.help_of(verb), flags=re.MULTILINE))
        assert {name for name in shown if name.startswith("--")} == named, verb


def test_an_option_has_its_type_text_and_default(made: ModuleType) -> None:
    found = {o.name: o for group in made.options("pretrain").values() for o in group}
    lr = PRETRAIN["demo"]().lr
    assert found["--lr FLOAT"].default == str(lr)
    (held_out,) = (o for name, o in found.items() if name.startswith("--held-out"))
    assert held_out.text.startswith("Shards for validation; never trained on.")
    assert found["--model.width INT"].default == "128"
    given = {o.name: o for group in made.options("tokenize").values() for o in group}
    (data,) = (o for name, o in given.items() if name.startswith("--data"))
    assert data.default == "must be given"


def test_recipes_are_those_of_the_code(made: ModuleType) -> None:
    page = made.fill((DOCS / "recipes.md").read_text())
    for recipes in made.RECIPES.values():
        for name in recipes:
            assert f"| `{name}` |" in page
    for name, recipe in PRETRAIN.items():
        job = recipe()
        assert isinstance(job, Pretrain)
        (row,) = (
            line
            for line in page.splitlines()
            if line.startswith(f"| `{name}` | ")
            and f" {model_cost(job.model).parameters / 1e6:,.1f} M " in line
        )
        assert ("Not run by us at this size." in row) == (
            "Not run by us at this size." in " ".join((recipe.__doc__ or "").split())
        )


def test_limits_on_the_page_about_safety_are_those_of_the_code() -> None:
    page, one = (DOCS / "safety.md").read_text(), DecodeLimits()
    sent, served = UploadLimits(), ServeConfig()
    side_px = math.isqrt(one.max_pixels)
    for row in (
        f"pixels of a frame | {side_px:,} x {side_px:,}",
        f"length | {one.max_duration_s / 3600:g} hours",
        f"size | {one.max_file_bytes >> 30} GiB",
        f"streams | {one.max_streams}",
        f"memory of the child | {one.memory_bytes >> 30} GiB",
        f"time on the clock | {one.wall_s:g} s, an image {one.image_wall_s:g} s",
        f"processor time | {one.cpu_grace_s:g} s, and 1 s more for each "
        f"{one.least_bytes_per_cpu_s:,} bytes",
        f"an upload | {served.max_upload_bytes >> 20} MiB, {sent.max_duration_s / 60:g} minutes, "
        f"{sent.max_pixels // 1440:,} x 1,440 px a frame",
        f"all that visitors sent and the page made for them | {served.max_stored_bytes >> 30} GiB, "
        f"each file for {served.keep_s / 3600:.0f} hour",
        f"requests that wait for the model | {served.max_waiting}",
        f"requests served at a time | {served.max_requests}",
        f"open pages whose clips are kept | {served.max_sessions}",
        f"time for a request's body | {served.body_s:g} s, and more while it comes at "
        f"{served.body_bytes_per_s / 1e3:g} kB/s",
    ):
        assert f"| {row} |" in page.replace("for an hour", "for 1 hour"), row


def test_notebooks_are_shown_whole(made: ModuleType) -> None:
    page = made.fill((DOCS / "notebook-quick-start.md").read_text())
    assert "```python\nimport json" in page
    assert "## 5. What that is worth" in page


def test_what_is_asked_for_must_be_there(made: ModuleType) -> None:
    with pytest.raises(KeyError):
        made.fill("<!-- made: verb prtrain -->")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx", reason="needs the extra `docs`")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    command += ["--doctree-dir", str(out / "doctrees"), str(DOCS), str(out / "html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return out / "html"


def test_the_site_is_whole(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert pages <= {path.relative_to(site) for path in site.rglob("*.html")}
    for page in site.rglob("*.html"):
        assert "<!-- made:" not in page.read_text()
    assert "UInt8" in (site / "python.html").read_text()


def test_the_site_asks_for_nothing_elsewhere(site: Path) -> None:
    """Links lead out when somebody follows them; nothing is fetched by looking at a page."""
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|img|link|iframe|source)\b[^>]*>", page.read_text())
        for tag in fetched:
            assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", tag), (page, tag)
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text()), style
