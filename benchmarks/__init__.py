"""One file a claim: ours and the peer, side by side in one run, printed as a ratio."""
