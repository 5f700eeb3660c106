"""The entry point of the `featx` command, and of `python -m featx`."""

from featx.cli.ctrl_c import handle_interrupts


def main() -> None:
    """Run the command line, and handle Ctrl-C while it is imported, too."""
    with handle_interrupts():
        from featx.cli.app import main as run

        run()


if __name__ == "__main__":
    main()
