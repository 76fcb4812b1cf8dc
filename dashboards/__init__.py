"""The front door: pages and a REST API inside MLflow's server, guarded together with it."""
