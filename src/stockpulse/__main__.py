"""The command line."""

from stockpulse.cli import cli

if __name__ == "__main__":
    cli()
