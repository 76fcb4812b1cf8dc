"""Searching, recording, exporting: Optuna, Ray and MLflow, each behind one file."""
