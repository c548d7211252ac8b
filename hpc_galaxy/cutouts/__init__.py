"""Select sources, cut stamps, and extract them from every brick."""
