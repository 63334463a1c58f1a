"""Loss to weights: loop, step, optimizer, schedule, checkpoints, plan."""
