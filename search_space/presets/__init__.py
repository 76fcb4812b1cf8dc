"""Ready-made spaces, one file each: `PRESET` is what a user would write under `space:` in a study file."""
