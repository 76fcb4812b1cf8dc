"""The front door: MLflow's server with our pages and REST API in it."""
