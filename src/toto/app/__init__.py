"""The web page of one run: what it sees in a clip, and what it expects next."""
