"""What the page says to someone who has never seen such a model."""

from toto.report.elements import Html, element, join

HEADING = join(
    (
        element("h1", "What a video model sees"),
        element(
            "p",
            "This model has learnt one thing: to guess the next small square of a video from all "
            "squares before it. Nobody told it what an object is. Choose a clip, and look at what "
            "it makes of it.",
            class_="lead",
        ),
    )
)
WAITING = Html('<p class="waiting">Choose a clip above.</p>')

SECTIONS: dict[str, tuple[str, str]] = {
    "reading": (
        "What it reads",
        "Each frame is cut into patches, and a tokenizer writes each patch as one number, a token. "
        "The model reads these numbers, row by row and frame after frame; it never sees a pixel.",
    ),
    "layers": (
        "What it makes of it",
        "Each layer turns every patch into a long list of numbers, its features. Here the three "
        "directions in which they differ most are red, green and blue: patches of one colour are "
        "alike to that layer. Press a layer.",
    ),
    "looking": (
        "Where it looks",
        "To understand a patch, the model looks back at others. Press any patch: it gets a frame, "
        "and the patches that it reads from light up. It cannot look into the future, so later "
        "frames fade.",
    ),
    "following": (
        "Following a thing",
        "Draw over something in the first frame. In each later frame, the patches whose features "
        "are most like those you marked are taken to be the same thing.",
    ),
    "imagining": (
        "What comes next",
        "The model is shown the first frames and goes on by itself, token by token. Each future is "
        "another throw of the dice. Below each film is its surprise: dark where the token was "
        "expected, bright where it was not.",
    ),
    "curves": (
        "How it learnt",
        "Its loss is how surprised it is by the next token, on average; zero would be perfect "
        "foresight.",
    ),
}
"""Title and explanation of each part, in the page's order."""
