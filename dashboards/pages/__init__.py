"""The pages under `/paretune/`: rendered here, made live by small scripts of our own, nothing from elsewhere."""
