"""The command line: serve, replay, migrate."""

from stockpulse.cli import cli

if __name__ == "__main__":
    cli()
