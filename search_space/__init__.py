"""What can be tried: methods, knobs, placements, hybrids, budgets and the spaces made of them.

Pure Python: no torch, ray, optuna, mlflow or web framework is imported from here.
"""
