"""The REST API: one router per resource, over the readers of the store and the pipeline."""
