"""One loop, and what it is given: objectives, schedules, the optimiser."""
