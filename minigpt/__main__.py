"""`python -m minigpt`: the command line."""

from minigpt.cli.app import main

if __name__ == "__main__":
    main()
