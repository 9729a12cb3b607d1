"""What a run stands on: its folder, its checkpoints, its devices, and the record of all three."""
