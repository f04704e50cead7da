"""Training: recipes, losses, schedules, checkpoints and the loop that joins them."""
