"""Tell what would be served, or why nothing can be: `python -m sgn_serve.check`."""

import sys

from sgn_serve.inference.classifier import Classifier
from sgn_serve.inference.graph import read_graph
from sgn_serve.refusals import ServingError
from sgn_serve.serving.model_card import model_card
from sgn_serve.settings import current_settings


def main() -> int:
    """Load everything as the service does.

    Returns:
        0, or an exit status after one line on stderr that says what to fix.
    """
    try:
        settings = current_settings()
        graph = read_graph(settings.model_path)
        classifier = Classifier(graph, settings.providers, settings.threads, settings.engine)
        model_card(graph, settings)
    except ServingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    description = classifier.description
    height, width = description.image_size
    print(
        f"{settings.model_path}: {len(description.class_names)} classes, {height} x {width} pixels, "
        f"{'with' if description.has_block else 'without'} self-gradient block, on {classifier.runs_on}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
