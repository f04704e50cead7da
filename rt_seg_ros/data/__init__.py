"""Data: sets in folders, rendered drives, augmentation."""
