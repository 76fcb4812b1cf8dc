"""`python -m orchestrator.cli` is `paretune`."""

from orchestrator.cli import main

if __name__ == "__main__":
    main()
