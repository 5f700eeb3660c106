"""`python -m featx` is `featx`."""

from featx.cli.app import main

if __name__ == "__main__":
    main()
