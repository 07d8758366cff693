"""`python -m a1agent` is `a1`."""

from a1agent.cli import main

if __name__ == "__main__":
    main()
