"""What is wrong with a run, from its log and its checkpoints: one file per concern, each gives findings."""
