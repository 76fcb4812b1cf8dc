"""The REST API under `/paretune/api/v1`."""
