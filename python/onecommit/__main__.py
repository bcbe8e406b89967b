"""The command line: `onecommit ...`, the same as `python -m onecommit ...`."""

import signal
import sys


def main() -> None:
    """Runs the command line in this process, and exits with its code."""
    # Python's own handler only sets a flag, which nobody reads while Rust runs, and its traceback
    # is no answer to Ctrl-C. The commands put their own handling in this one's place.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ._errors import Error
    from ._native.main import main as run

    try:
        code = run(["onecommit", *sys.argv[1:]])
    except Error as error:  # a defect: what a command itself reports, it has turned into a code
        print(f"onecommit: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
