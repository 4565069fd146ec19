"""Says what would be served, or why nothing can be: `python -m sgn_serve.check`."""

import sys

from sgn_serve.inference.classifier import Classifier
from sgn_serve.inference.engines import EngineError
from sgn_serve.inference.graph import GraphError, read_graph
from sgn_serve.serving.model_card import model_card
from sgn_serve.settings import SettingsError, current_settings


def main() -> int:
    """Loads everything as the service does; 0, or 1 after one line on stderr that says what to fix."""
    try:
        settings = current_settings()
        graph = read_graph(settings.model_path)
        classifier = Classifier(graph, settings.providers, settings.threads, settings.engine)
        model_card(graph, settings)
    except (SettingsError, GraphError, EngineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    description = classifier.description
    height, width = description.image_size
    print(
        f"{settings.model_path}: {len(description.class_names)} classes, {height} x {width} pixels, "
        f"{'with' if description.has_block else 'without'} self-gradient block, on {classifier.runs_on}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
