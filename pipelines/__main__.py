"""Entry point: `kindling VERB`, and `python -m pipelines VERB`, which is the same."""

import signal
import sys


def main() -> None:
    """Runs the command line; Ctrl-C while it is still imported is no traceback either."""
    try:
        from pipelines.cli.main import main

        main()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("stopped", file=sys.stderr)
        sys.exit(75)  # schemas.errors.EXIT_STOPPED, which may not be imported yet


if __name__ == "__main__":
    main()
