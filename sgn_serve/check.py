"""Tell what would be served, or why nothing can be: `python -m sgn_serve.check`."""

import sys

from sgn_serve.common.error_text import say
from sgn_serve.common.refusals import ServingError, refused
from sgn_serve.serving.trial import try_model
from sgn_serve.settings import current_settings


def main() -> int:
    """Try the model as the service does when it starts.

    Returns:
        0, or an exit status after one line on stderr that says what to fix.
    """
    try:
        tried = try_model(current_settings())
    except ServingError as error:
        return refused(error)
    for note in tried.notes:
        say(f"warning: {note}")
    print(tried.summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
