"""How fast candidates are evaluated: beside what a user would write, and beside the least that must be computed."""
