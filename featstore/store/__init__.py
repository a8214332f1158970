"""The store: layout, writer, reader, views. The only place that knows how it lies on disk."""
