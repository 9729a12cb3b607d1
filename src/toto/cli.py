"""`toto VERB [RECIPE] [--field value ...]`."""


def main() -> None:
    """Run the command."""
