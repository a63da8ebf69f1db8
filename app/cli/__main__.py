"""The console command `mission`, also `python -m app.cli`."""

from app.shutdown import shutdown


def main() -> None:
    """Run the console command `mission`."""
    shutdown.install("interrupted")
    # Imported after that, because a Ctrl-C during these slow imports ends the command too.
    from app.cli.main import app  # noqa: PLC0415

    app()


if __name__ == "__main__":
    main()
