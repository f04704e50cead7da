"""Training: recipes, losses, schedules, checkpoints and the loop that joins them."""

import os

# Threads that wait for each other by spinning take the cores from whatever runs beside them, and then wait for that: a
# step takes ten times as long. To be set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
